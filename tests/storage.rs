//! One suite for every backend (`contract`), and what only a directory on a disk must keep (`local`).
//!
//! Needs `strace`, `unshare` and `mount`. As root it also checks the owner rule for real; otherwise it says what it
//! left out.

#[path = "storage/child.rs"]
mod child;
#[path = "storage/contract.rs"]
mod contract;
#[path = "storage/faults.rs"]
mod faults;
#[path = "storage/local.rs"]
mod local;

use std::sync::Arc;

use pgkeep::storage::{FaultyStorage, LocalStorage, MemoryStorage, Missing, Storage};

macro_rules! every_backend_keeps {
    ($($promise:ident)*) => {
        mod on_local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let folder = tempfile::tempdir().unwrap();
                let storage = super::LocalStorage::open(folder.path().join("repo"), super::Missing::CreateLast);
                super::contract::$promise(super::Arc::new(storage.await.unwrap())).await;
            })*
        }
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::contract::$promise(super::Arc::new(super::MemoryStorage::new())).await;
            })*
        }
        mod on_faulty {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let inner: super::Arc<dyn super::Storage> = super::Arc::new(super::MemoryStorage::new());
                super::contract::$promise(super::Arc::new(super::FaultyStorage::over(inner))).await;
            })*
        }
    };
}

every_backend_keeps! {
    what_is_created_is_read_back_and_never_overwritten
    of_racing_creators_exactly_one_wins
    of_racing_writers_exactly_one_wins
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
}
