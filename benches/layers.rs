//! What each layer costs on its own: `cargo bench --bench layers`, or `-- seal`, `-- cfb/`, `-- compress/zstd` for a part of it.
//!
//! One file under `layers/` for each layer, with one function that takes the Criterion; add a layer by a `mod` and a line in [`main`].

use criterion::Criterion;

#[path = "layers/compress.rs"]
mod compress;
#[path = "layers/data.rs"]
mod data;
#[path = "layers/frame.rs"]
mod frame;
#[path = "layers/mux.rs"]
mod mux;
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

/// Whether the command line asks for what is called `name`: it has no filter (options and their numbers are none), or one that fits.
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
