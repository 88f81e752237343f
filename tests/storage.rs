//! One suite for every backend (`contract`), what only a directory on a disk must keep (`local`), and what only a store
//! beyond a network must (`s3`).
//!
//! Needs `strace`, `unshare` and `mount`. As root it also checks the owner rule for real; otherwise it says what it
//! left out.

#[path = "storage/canned.rs"]
mod canned;
#[path = "storage/child.rs"]
mod child;
#[path = "storage/contract.rs"]
mod contract;
#[path = "storage/faults.rs"]
mod faults;
#[path = "storage/local.rs"]
mod local;
#[path = "storage/rclone.rs"]
mod rclone;
#[path = "storage/s3.rs"]
mod s3;
#[path = "storage/stores.rs"]
mod stores;

mod common;

macro_rules! keeps {
    ($backend:ident: $($promise:ident)*) => {
        mod $backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let opened = super::stores::$backend().await;
                super::contract::$promise(opened.storage).await;
            })*
        }
    };
}

macro_rules! every_backend_keeps {
    ($($promise:ident)*) => {
        keeps! { on_local: $($promise)* }
        keeps! { on_memory: $($promise)* }
        keeps! { on_faulty: $($promise)* }
        keeps! { on_s3: $($promise)* }
        keeps! { on_oss: $($promise)* }
        keeps! { on_rclone: $($promise)* }
        keeps! { on_rclone_sftp: $($promise)* }
    };
}

/// Where nothing proves create-only, of two who create one name at the same time both may be told that they did.
macro_rules! every_backend_that_proves_create_only_keeps {
    ($($promise:ident)*) => {
        mod between_writers {
            use super::stores;
            keeps! { on_local: $($promise)* }
            keeps! { on_memory: $($promise)* }
            keeps! { on_faulty: $($promise)* }
            keeps! { on_s3: $($promise)* }
            keeps! { on_oss: $($promise)* }
            use super::contract;
        }
    };
}

/// SeaweedFS takes a backslash for a slash; the layout of a repository has none.
mod names {
    use super::{contract, stores};
    keeps! { on_local: a_backslash_is_a_character }
    keeps! { on_memory: a_backslash_is_a_character }
}

every_backend_that_proves_create_only_keeps! {
    of_racing_creators_exactly_one_wins
    of_racing_writers_exactly_one_wins
    create_only_is_proved
}

every_backend_keeps! {
    what_is_created_is_read_back_and_never_overwritten
    a_replaced_object_is_old_or_new_and_never_a_mix
    replace_makes_what_is_missing
    a_writer_stores_only_when_it_finishes
    a_finished_writer_does_not_overwrite
    a_dropped_write_breaks_its_writer_or_is_kept
    ranges_lie_in_the_object_or_are_errors
    an_empty_object_is_an_object
    a_big_object_comes_back_byte_for_byte
    an_open_reader_survives_a_delete_or_fails
    odd_names_are_names
    a_listing_is_sorted_and_covers_whole_components
    a_listing_of_more_than_a_thousand_is_complete
    what_is_missing_is_said_to_be_missing
    a_folder_is_not_an_object
    get_refuses_what_is_too_large
    the_clock_of_the_store_dates_its_objects
    free_space_is_plausible_or_unknown
    a_sweep_leaves_live_writers_alone
    many_are_deleted_at_once
    what_is_expected_is_no_promise
    a_probe_leaves_nothing
}
