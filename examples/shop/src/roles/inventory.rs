//! The warehouse: says whether an order can be filled, over gRPC. It keeps no state, so reserving
//! twice for one order is the same as once.

use tonic::{Request, Response, Status};

use crate::catalog;
use crate::pb::inventory_server::Inventory;
use crate::pb::{ReserveReply, ReserveRequest};

#[derive(Debug)]
pub(crate) struct Warehouse;

#[tonic::async_trait]
impl Inventory for Warehouse {
    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveReply>, Status> {
        let ReserveRequest { order_id, lines } = request.into_inner();
        if order_id.is_empty() || lines.is_empty() {
            return Err(Status::invalid_argument("an order has an id and a line"));
        }
        for line in &lines {
            let Some(product) = catalog::find(&line.sku) else {
                return Err(Status::not_found(format!("no product {:?}", line.sku)));
            };
            if !(1..=product.stock).contains(&line.quantity) {
                return Err(Status::failed_precondition(format!(
                    "{} of {} cannot be reserved: 1 to {} can",
                    line.quantity, product.sku, product.stock
                )));
            }
        }
        Ok(Response::new(ReserveReply {
            reservation_id: format!("rs-{order_id}"),
        }))
    }
}
