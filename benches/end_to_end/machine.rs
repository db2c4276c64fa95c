//! Facts about the machine for the tables: processors, kernel, compiler, versions.

use std::{
    fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::network;

/// Returns the network and the number of processors.
pub(crate) fn network() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {processors} processors", network::description())
}

/// Returns names and values, as far as they are known.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let processor = read_field("/proc/cpuinfo", "model name")
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read_field("/proc/meminfo", "MemTotal")
        .and_then(|size| size.strip_suffix(" kB")?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut facts = vec![
        ("processors", format!("{count} × {processor}")),
        ("kernel", format!("Linux {}", kernel.trim())),
        (
            "compiler",
            output("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
        ),
        (
            "rePort",
            format!(
                "{}, {} build",
                env!("CARGO_PKG_VERSION"),
                if cfg!(debug_assertions) {
                    "test"
                } else {
                    "release"
                }
            ),
        ),
        ("date", date(SystemTime::now())),
    ];
    if let Some(kib) = memory {
        facts.insert(1, ("memory", format!("{} GiB", kib >> 20)));
    }
    facts
}

fn read_field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_once(':'))?
        .1;
    Some(value.trim().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Formats a time as a UTC date.
///
/// The calculation counts the days of the Gregorian calendar in years that start in March.
fn date(now: SystemTime) -> String {
    let days = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / 86_400)
        + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    format!(
        "{:04}-{month:02}-{day:02}",
        era * 400 + year_of_era + u64::from(month <= 2)
    )
}
