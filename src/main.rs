//! The `report` binary. [`report::cli`] does all the work.

fn main() -> std::process::ExitCode {
    report::cli::main()
}
