//! What is promised of dumps, held against object stores, with the real program: death at any moment, signals while the
//! store stands still, slow and dead stores, damage in a bucket, the dialect of OSS, every source of keys, rclone, and
//! buckets of many objects.

mod common;

#[path = "stores/credentials.rs"]
mod credentials;
#[path = "stores/damage.rs"]
mod damage;
#[path = "stores/death.rs"]
mod death;
#[path = "stores/many.rs"]
mod many;
#[path = "stores/oss.rs"]
mod oss;
#[path = "stores/patience.rs"]
mod patience;
#[path = "stores/rclone.rs"]
mod rclone;
#[path = "stores/signals.rs"]
mod signals;
#[path = "stores/world.rs"]
mod world;
