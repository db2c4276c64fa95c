//! What rePort is to reach, computed from what was measured: the ratios are of values of the same round, and the median of them counts.

use crate::{results::Results, stalled::STALLED};

/// Which side of the number is good.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

struct Goal {
    what: String,
    /// Nothing where a system is missing that it takes.
    value: Option<f64>,
    bound: Bound,
}

/// The four transfers: how they are called, their rate and their cost.
const TRANSFERS: [(&str, &str, &str); 4] = [
    ("up 1", "up_1_mb_s", "up_1_cpu_s_gib"),
    ("down 1", "down_1_mb_s", "down_1_cpu_s_gib"),
    ("up 8", "up_8_mb_s", "up_8_cpu_s_gib"),
    ("down 8", "down_8_mb_s", "down_8_cpu_s_gib"),
];

/// Memory that may be gained in the second half of a run of new connections, of all processes, in MiB: less than 20 bytes for each connection.
const LATER_MEMORY: f64 = 4.0;

/// A row for each goal whose systems were measured.
pub fn rows(results: &Results) -> Vec<Vec<String>> {
    let titles = ["goal", "value", "wanted", ""].map(str::to_owned).to_vec();
    let row = |goal: Goal| {
        let value = goal.value?;
        let (wanted, is_held) = match goal.bound {
            AtLeast(bound) => (format!("≥ {bound}"), value >= bound),
            AtMost(bound) => (format!("≤ {bound}"), value <= bound),
        };
        let held = if is_held { "held" } else { "NOT held" };
        Some(vec![
            goal.what,
            format!("{value:.2}"),
            wanted,
            held.to_owned(),
        ])
    };
    std::iter::once(titles)
        .chain(all(results).into_iter().filter_map(row))
        .collect()
}

/// CPU time of a system, of what `plain` and what it adds to `plain` take alone.
pub fn of_plain_and_alone(results: &Results, system: &str, cost: &str) -> Option<f64> {
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
            what: format!("plain, {transfer}: throughput of the chain's"),
            value: results.of_the_chain("plain", rate),
            bound: AtLeast(least),
        });
        goals.push(Goal {
            what: format!("plain, {transfer}: CPU of the chain's"),
            value: results.of_the_chain("plain", cost),
            bound: AtMost(1.3),
        });
    }
    for (transfer, name) in [("up 8", "up_8_fairness"), ("down 8", "down_8_fairness")] {
        goals.push(Goal {
            what: format!("plain, {transfer}: least of most served"),
            value: results.median("plain", name),
            bound: AtLeast(0.8),
        });
    }
}

fn ciphers(results: &Results, goals: &mut Vec<Goal>) {
    for (transfer, _, cost) in TRANSFERS {
        goals.push(Goal {
            what: format!("aes-128-gcm, {transfer}: CPU s/GiB more than plain"),
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
                what: format!("{system}, {transfer}: CPU of plain + {alone} alone"),
                value: of_plain_and_alone(results, system, cost),
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
                    what: format!("{system}, {transfer}: throughput of the compressor alone"),
                    value: results.computed(
                        [(&system, rate), (&system, "alone_mb_s")],
                        |[whole, alone]| whole / alone,
                    ),
                    bound: AtLeast(0.85),
                });
            }
            let system = format!("plain-{method}-random");
            goals.push(Goal {
                what: format!("{system}, {transfer}: throughput of plain"),
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
        ("echo, idle: p50 of the chain's", "echo_p50_us", 1.15),
        ("echo beside bulk: p50 of the chain's", "beside_p50_ms", 1.5),
        ("echo beside bulk: p99 of the chain's", "beside_p99_ms", 0.5),
    ] {
        let value = results.of_the_chain("plain", name);
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
            what: format!(
                "plain, a copy {copy} beside {STALLED} stalled readers: time of the copy alone"
            ),
            value: results.computed([("plain", alone), ("plain", beside)], |[alone, beside]| {
                alone / beside
            }),
            bound: AtMost(1.3),
        });
    }
    goals.push(Goal {
        what: format!(
            "plain, echo beside {STALLED} stalled readers: p99 of twice the idle p99 and 2 ms"
        ),
        value: results.computed(
            [("plain", "stalled_echo_p99_us"), ("plain", "echo_p99_us")],
            |[beside, idle]| beside / (2.0 * idle + 2000.0),
        ),
        bound: AtMost(1.0),
    });
}

fn connections(results: &Results, goals: &mut Vec<Goal>) {
    goals.push(Goal {
        what: "plain, new connections one at a time: p50 to the first byte of the chain's"
            .to_owned(),
        value: results.of_the_chain("plain", "connect_1_p50_us"),
        bound: AtMost(0.8),
    });
    goals.push(Goal {
        what: "plain, new connections 16 at once: a second, of the chain's".to_owned(),
        value: results.of_the_chain("plain", "connect_16_s"),
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
    let mut push = |of_it: &str, value, bound| {
        goals.push(Goal {
            what: format!("{what}: {of_it}"),
            value,
            bound,
        })
    };
    push(
        "a second, of the chain's",
        rate("plain")
            .zip(rate("chain"))
            .map(|(ours, theirs)| ours / theirs),
        AtLeast(1.5),
    );
    push("failed", Some(of_plain.failed as f64), AtMost(0.0));
    push(
        "descriptors more than before",
        Some(of_plain.more_descriptors()),
        AtMost(0.0),
    );
    push(
        "MiB gained in the second half",
        Some(of_plain.later_memory_mib()),
        AtMost(LATER_MEMORY),
    );
}
