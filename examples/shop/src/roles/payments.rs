//! The cashier: charges cards, over gRPC. A charge is named after its order, so charging twice for
//! one order is the same as once.

use tonic::{Request, Response, Status};

use crate::pb::payments_server::Payments;
use crate::pb::{ChargeReply, ChargeRequest};

#[derive(Debug)]
pub(crate) struct Cashier {
    version: String,
}

impl Cashier {
    pub(crate) fn new(version: &str) -> Self {
        Self {
            version: version.to_owned(),
        }
    }
}

#[tonic::async_trait]
impl Payments for Cashier {
    async fn charge(
        &self,
        request: Request<ChargeRequest>,
    ) -> Result<Response<ChargeReply>, Status> {
        let charge = request.into_inner();
        if charge.order_id.is_empty() || charge.amount_cents == 0 {
            return Err(Status::invalid_argument(
                "a charge has an order id and an amount",
            ));
        }
        if charge.card_token == "declined" {
            return Err(Status::failed_precondition("the card is declined"));
        }
        Ok(Response::new(ChargeReply {
            charge_id: format!("ch-{}", charge.order_id),
            version: self.version.clone(),
        }))
    }
}
