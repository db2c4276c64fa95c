//! The goals of rePort and their evaluation.
//!
//! Each ratio is the median of the ratios of all rounds.

use crate::{document::strings, results::Results, stalled::STALLED};

/// The bound of a goal.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

struct Goal {
    what: String,
    /// `None` if a required system was not measured.
    value: Option<f64>,
    bound: Bound,
}

/// The four transfers: the label, and the names of the rate and the cost.
const TRANSFERS: [(&str, &str, &str); 4] = [
    ("up 1", "up_1_mb_s", "up_1_cpu_s_gib"),
    ("down 1", "down_1_mb_s", "down_1_cpu_s_gib"),
    ("up 8", "up_8_mb_s", "up_8_cpu_s_gib"),
    ("down 8", "down_8_mb_s", "down_8_cpu_s_gib"),
];

/// The maximum memory growth in the second half of the sustained run, in MiB for all processes.
///
/// It is less than 20 bytes per connection.
const LATER_MEMORY: f64 = 4.0;

/// Returns a row for each goal whose systems were measured.
pub(crate) fn rows(results: &Results) -> Vec<Vec<String>> {
    let titles = strings(["goal", "value", "target", ""]);
    let row = |goal: Goal| {
        let value = goal.value?;
        let (target, is_met) = match goal.bound {
            AtLeast(bound) => (format!("≥ {bound}"), value >= bound),
            AtMost(bound) => (format!("≤ {bound}"), value <= bound),
        };
        let verdict = if is_met { "met" } else { "MISSED" };
        Some(vec![
            goal.what,
            format!("{value:.2}"),
            target,
            verdict.to_owned(),
        ])
    };
    std::iter::once(titles)
        .chain(all(results).into_iter().filter_map(row))
        .collect()
}

/// Returns the ratio of a system's CPU time to the sum of `plain` and its added methods alone.
pub(crate) fn ratio_to_plain_and_standalone(
    results: &Results,
    system: &str,
    cost: &str,
) -> Option<f64> {
    results.computed(
        [(system, cost), ("plain", cost), (system, "alone_cpu_s_gib")],
        |[whole, plain, alone]| whole / (plain + alone),
    )
}

fn all(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    transfers(results, &mut goals);
    ciphers(results, &mut goals);
    compressors(results, &mut goals);
    latencies(results, &mut goals);
    stalled(results, &mut goals);
    connections(results, &mut goals);
    goals
}

fn transfers(results: &Results, goals: &mut Vec<Goal>) {
    for (transfer, rate, cost) in TRANSFERS {
        let least = if transfer.ends_with('1') { 0.75 } else { 0.8 };
        goals.push(Goal {
            what: format!("plain, {transfer}: throughput / chain"),
            value: results.ratio_to_chain("plain", rate),
            bound: AtLeast(least),
        });
        goals.push(Goal {
            what: format!("plain, {transfer}: CPU / chain"),
            value: results.ratio_to_chain("plain", cost),
            bound: AtMost(1.3),
        });
    }
    for (transfer, name) in [("up 8", "up_8_fairness"), ("down 8", "down_8_fairness")] {
        goals.push(Goal {
            what: format!("plain, {transfer}: fairness (min / max)"),
            value: results.median("plain", name),
            bound: AtLeast(0.8),
        });
    }
}

fn ciphers(results: &Results, goals: &mut Vec<Goal>) {
    for (transfer, _, cost) in TRANSFERS {
        goals.push(Goal {
            what: format!("aes-128-gcm, {transfer}: CPU s/GiB above plain"),
            value: results.computed(
                [("aes-128-gcm", cost), ("plain", cost)],
                |[whole, plain]| whole - plain,
            ),
            bound: AtMost(0.5),
        });
    }
    for (system, alone, bound) in [
        ("aes-128-cfb", "CFB and HMAC", 1.15),
        ("plain-tls", "rustls", 1.1),
    ] {
        for (transfer, _, cost) in TRANSFERS {
            goals.push(Goal {
                what: format!("{system}, {transfer}: CPU / (plain + {alone} alone)"),
                value: ratio_to_plain_and_standalone(results, system, cost),
                bound: AtMost(bound),
            });
        }
    }
}

fn compressors(results: &Results, goals: &mut Vec<Goal>) {
    for method in ["s2", "zstd"] {
        for (transfer, rate, _) in &TRANSFERS[..2] {
            for payload in ["text", "binary"] {
                let system = format!("plain-{method}-{payload}");
                goals.push(Goal {
                    what: format!("{system}, {transfer}: throughput / compressor alone"),
                    value: results.computed(
                        [(&system, rate), (&system, "alone_mb_s")],
                        |[whole, alone]| whole / alone,
                    ),
                    bound: AtLeast(0.85),
                });
            }
            let system = format!("plain-{method}-random");
            goals.push(Goal {
                what: format!("{system}, {transfer}: throughput / plain"),
                value: results.computed([(&system, rate), ("plain", rate)], |[whole, plain]| {
                    whole / plain
                }),
                bound: AtLeast(0.9),
            });
        }
    }
}

fn latencies(results: &Results, goals: &mut Vec<Goal>) {
    for (what, name, bound) in [
        ("echo, idle: p50 / chain", "echo_p50_us", 1.15),
        ("echo during bulk: p50 / chain", "beside_p50_ms", 1.5),
        ("echo during bulk: p99 / chain", "beside_p99_ms", 0.5),
    ] {
        let value = results.ratio_to_chain("plain", name);
        goals.push(Goal {
            what: format!("plain, {what}"),
            value,
            bound: AtMost(bound),
        });
    }
}

fn stalled(results: &Results, goals: &mut Vec<Goal>) {
    for (copy, alone, beside) in [
        ("down", "stalled_down_alone_mb_s", "stalled_down_mb_s"),
        ("up", "stalled_up_alone_mb_s", "stalled_up_mb_s"),
    ] {
        goals.push(Goal {
            what: format!("plain, copy {copy} beside {STALLED} stalled readers: time / copy alone"),
            value: results.computed([("plain", alone), ("plain", beside)], |[alone, beside]| {
                alone / beside
            }),
            bound: AtMost(1.3),
        });
    }
    goals.push(Goal {
        what: format!("plain, echo beside {STALLED} stalled readers: p99 / (2 × idle p99 + 2 ms)"),
        value: results.computed(
            [("plain", "stalled_echo_p99_us"), ("plain", "echo_p99_us")],
            |[beside, idle]| beside / (2.0 * idle + 2000.0),
        ),
        bound: AtMost(1.0),
    });
}

fn connections(results: &Results, goals: &mut Vec<Goal>) {
    goals.push(Goal {
        what: "plain, new connections, one at a time: p50 to first byte / chain".to_owned(),
        value: results.ratio_to_chain("plain", "connect_1_p50_us"),
        bound: AtMost(0.8),
    });
    goals.push(Goal {
        what: "plain, new connections, 16 at once: rate / chain".to_owned(),
        value: results.ratio_to_chain("plain", "connect_16_s"),
        bound: AtLeast(1.5),
    });
    let sustained = |system: &str| {
        results
            .find(system)
            .and_then(|measured| measured.sustained.as_ref())
    };
    let rate =
        |system: &str| sustained(system).map(|sustained| sustained.made as f64 / sustained.seconds);
    let Some(of_plain) = sustained("plain") else {
        return;
    };
    let what = format!("plain, 16 at once for {:.0} s", of_plain.seconds);
    let mut push = |label: &str, value, bound| {
        goals.push(Goal {
            what: format!("{what}: {label}"),
            value,
            bound,
        })
    };
    push(
        "rate / chain",
        rate("plain")
            .zip(rate("chain"))
            .map(|(ours, theirs)| ours / theirs),
        AtLeast(1.5),
    );
    push("failed", Some(of_plain.failed as f64), AtMost(0.0));
    push(
        "leaked descriptors",
        Some(of_plain.more_descriptors()),
        AtMost(0.0),
    );
    push(
        "MiB growth in the second half",
        Some(of_plain.later_memory_mib()),
        AtMost(LATER_MEMORY),
    );
}
