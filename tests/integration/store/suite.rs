//! The cases that every database passes. Each one gets an empty database.
//!
//! A server starts in seconds, so one test runs all cases of a database.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
};

use super::{
    accounts, audit, backends::Backend, block_on, changes, credentials, keys, schema, usage,
};

/// A case, which receives the URL of its database.
struct Case {
    name: &'static str,
    run: fn(String) -> Pin<Box<dyn Future<Output = ()>>>,
}

macro_rules! cases {
    ($($module:ident::$case:ident,)*) => {
        &[$(Case {
            name: stringify!($case),
            run: |url| Box::pin($module::$case(url)),
        }),*]
    };
}

const CASES: &[Case] = cases![
    schema::a_database_opens_again,
    schema::several_masters_open_a_new_database,
    schema::a_newer_schema_is_refused,
    schema::an_invalid_row_is_named,
    schema::an_invalid_row_hides_no_other,
    schema::an_invalid_policy_of_the_relay_leaves_the_former_one,
    accounts::accounts_round_trip,
    accounts::accounts_have_pages,
    accounts::a_version_protects_an_account,
    accounts::a_duplicate_name_is_refused,
    accounts::an_account_is_removed,
    accounts::an_account_in_use_is_kept,
    accounts::a_dropped_change_has_no_effect,
    accounts::tokens_round_trip,
    accounts::the_relay_has_a_policy,
    credentials::credentials_round_trip,
    credentials::a_credential_is_revoked,
    credentials::duplicate_credentials_are_refused,
    credentials::a_credential_is_created_again,
    keys::keys_round_trip,
    keys::keys_have_pages,
    keys::a_key_needs_an_owner_that_exists,
    keys::a_key_is_created_again,
    changes::a_delta_has_what_changed,
    changes::an_older_copy_is_read_completely,
    changes::purged_tombstones_are_read_completely,
    changes::a_load_has_several_pages,
    changes::a_watch_sees_a_change,
    changes::a_reader_misses_no_commit,
    usage::increments_of_masters_add_up,
    usage::a_repeated_flush_counts_once,
    usage::concurrent_flushes_and_rollups_lose_nothing,
    usage::quotas_have_counters_for_each_period,
    usage::history_has_minutes_hours_and_days,
    usage::live_numbers_are_those_of_the_others,
    usage::the_past_is_removed,
    usage::a_clock_far_ahead_removes_nothing,
    usage::subjects_have_pages,
    audit::events_have_pages,
    audit::an_event_that_is_written_again_stays_one,
    audit::long_texts_are_cut,
    audit::a_change_has_its_event,
    audit::the_log_has_bounds,
];

/// Runs all cases, and fails with the names of those that failed.
fn run(backend: &Backend) {
    let has_failed = |case: &&Case| {
        eprintln!("case {}", case.name);
        let url = backend.database(case.name);
        catch_unwind(AssertUnwindSafe(|| block_on((case.run)(url)))).is_err()
    };
    let failed = CASES.iter().filter(has_failed);
    let failed: Vec<_> = failed.map(|case| case.name).collect();
    assert!(failed.is_empty(), "failed cases: {failed:?}");
}

#[test]
fn sqlite_passes_the_suite() {
    run(&Backend::sqlite());
}

#[test]
fn postgres_passes_the_suite() {
    run(&Backend::postgres());
}

#[test]
fn mariadb_passes_the_suite() {
    run(&Backend::mariadb());
}
