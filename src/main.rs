//! The `report` binary: arguments to role.

fn main() -> std::process::ExitCode {
    report::cli::main()
}
