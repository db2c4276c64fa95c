//! The commands, one file for each.

mod roles;

/// Runs the command that the process's arguments name.
pub fn main() -> std::process::ExitCode {
    let path = std::env::args().nth(2).unwrap_or_else(|| "config.json".into());
    let loaded = match crate::config::load(std::path::Path::new(&path)) {
        Ok(l) => l,
        Err(e) => {
            eprintln!("{e}");
            return 1.into();
        }
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(loaded.config.log_level).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cancel = tokio_util::sync::CancellationToken::new();
        let c = cancel.clone();
        let ready = match roles::Ready::prepare(&loaded.config).await {
            Ok(r) => r,
            Err(e) => {
                eprintln!("{e:#}");
                return 1.into();
            }
        };
        let sig = async move {
            let _ = tokio::signal::ctrl_c().await;
            c.cancel();
        };
        tokio::join!(sig, ready.run(cancel, std::time::Duration::from_secs(5)));
        0.into()
    })
}
