//! What the shop sells. Fixed, so that every application knows prices and stock without storage.

use serde::Serialize;

/// One product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Product {
    /// Stock keeping unit: the product's name in requests.
    pub sku: &'static str,
    /// What customers read.
    pub title: &'static str,
    /// Price of one piece in cents.
    pub price_cents: u64,
    /// The most pieces that one order can reserve.
    pub stock: u32,
}

/// Everything for sale.
pub const PRODUCTS: [Product; 4] = [
    product("paddle", "Paddle, ash", 8_900, 40),
    product("rope", "Rope, 20 m", 2_450, 200),
    product("lantern", "Lantern", 5_900, 25),
    product("mug", "Enamel mug", 1_200, 500),
];

const fn product(sku: &'static str, title: &'static str, price_cents: u64, stock: u32) -> Product {
    Product {
        sku,
        title,
        price_cents,
        stock,
    }
}

/// The product with this SKU.
#[must_use]
pub fn find(sku: &str) -> Option<&'static Product> {
    PRODUCTS.iter().find(|product| product.sku == sku)
}
