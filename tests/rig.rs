//! The rig for object stores: what it promises to the tests that lean on it, proven with the stock client.

mod common;

#[path = "rig/dialect.rs"]
mod dialect;
#[path = "rig/faults.rs"]
mod faults;
#[path = "rig/rclone.rs"]
mod rclone;
#[path = "rig/server.rs"]
mod server;
#[path = "rig/stores.rs"]
mod stores;
#[path = "rig/wire.rs"]
mod wire;
