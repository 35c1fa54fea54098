//! What is done about a paid order. Each service has a queue of its own, so that none waits for another; in a larger
//! shop each would be a program of its own.

use leveret::subscriber;

use crate::event::OrderPaid;

#[subscriber(queue = "shop.receipts", retries = 10)]
pub(crate) async fn send_receipt(event: OrderPaid) {
    println!("receipt: {} cents, thank you {}", event.cents, event.customer);
}

#[subscriber(queue = "shop.stock", concurrency = 4)]
pub(crate) async fn reserve(event: OrderPaid) {
    println!("stock: reserved for order {}", event.order);
}

/// Europe's tax office hears of Europe's orders only.
#[subscriber(queue = "shop.tax.europe", binding = "order.europe.*")]
pub(crate) async fn note_tax(event: OrderPaid) {
    println!("tax: {} cents of {}", event.cents / 5, event.cents);
}
