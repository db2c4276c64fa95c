//! Measures each layer alone.
//!
//! Run `cargo bench --bench layers`, or add a filter: `-- seal`, `-- cfb/`, `-- compress/zstd`.
//!
//! Each layer has one file under `layers/` with one function that takes the Criterion instance. To
//! add a layer, add a `mod` and a line in [`main`].

use criterion::Criterion;

#[path = "layers/compress.rs"]
mod compress;
#[path = "support/data.rs"]
mod data;
#[path = "layers/frame.rs"]
mod frame;
#[path = "layers/mux.rs"]
mod mux;
#[path = "support/port.rs"]
mod port;
#[path = "layers/seal.rs"]
mod seal;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    seal::bench(&mut criterion);
    compress::bench(&mut criterion);
    frame::bench(&mut criterion);
    mux::bench(&mut criterion);
    criterion.final_summary();
    if is_wanted("cfb/ratio") {
        seal::print_cfb_ratios();
    }
    if is_wanted("compress/ratio") {
        compress::print_ratios();
    }
}

/// Returns whether the command line selects `name`: it has no filter, or only filters that match.
///
/// Options and numbers are not filters.
fn is_wanted(name: &str) -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let other_mode = arguments
        .iter()
        .any(|argument| argument == "--test" || argument == "--list");
    let mut filters = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-') && argument.parse::<f64>().is_err());
    !other_mode && filters.all(|filter| name.contains(filter.as_str()))
}
