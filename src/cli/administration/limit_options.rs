//! Options for the limits of an account, of a key and of the relay, and their text.

use anyhow::bail;
use clap::Args;

use super::values::{Setting, json_value, maximum, rate, size};
use crate::policy::{
    ByteSize, Direction, Limits, Period, PeriodUnit, Quota, Rate, RateLimit, Threshold,
    ThresholdAction, TimeOfDay, Zone,
};

/// How to write a quota.
const QUOTA_FORM: &str = "write SIZE/UNIT such as \"1 TB/month\", with the units day, week, month \
                          and total, and optional parts such as \
                          \"1 TB/month,reset=15,zone=Europe/Berlin,at=80:notify,at=100:stop\"";

/// The options for limits. An option that is not given leaves its limit as it is.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(super) struct LimitOptions {
    /// Highest rate of both directions together, or none
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<Setting<Rate>>,
    /// Highest rate from clients to servers, or none
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate_up: Option<Setting<Rate>>,
    /// Highest rate from servers to clients, or none
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate_down: Option<Setting<Rate>>,
    /// Bytes at once after a pause, for all rates, or none
    #[arg(long, value_name = "SIZE", value_parser = size)]
    burst: Option<Setting<ByteSize>>,
    /// Bytes per period such as "1 TB/month", repeatable, or none
    #[arg(long, value_name = "QUOTA", value_parser = quota)]
    quota: Vec<Setting<Quota>>,
    /// Highest number of tunnels, or none
    #[arg(long, value_name = "N", value_parser = maximum)]
    max_tunnels: Option<Setting<u32>>,
    /// Highest number of links, or none
    #[arg(long, value_name = "N", value_parser = maximum)]
    max_links: Option<Setting<u32>>,
    /// Highest number of new tunnels per minute, or none
    #[arg(long, value_name = "N", value_parser = maximum)]
    max_attachments: Option<Setting<u32>>,
    /// Share of a scarce rate compared with others
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
}

impl LimitOptions {
    /// Returns the limits with the given ones changed, or `None` if no option is given.
    pub(super) fn apply(&self, present: &Limits) -> anyhow::Result<Option<Limits>> {
        if *self == LimitOptions::default() {
            return Ok(None);
        }
        let mut limits = present.clone();
        self.apply_rates(&mut limits)?;
        if !self.quota.is_empty() {
            limits.quotas = self
                .quota
                .iter()
                .cloned()
                .filter_map(Setting::value)
                .collect();
        }
        let counts = &mut limits.counts;
        for (field, option) in [
            (&mut counts.tunnels, self.max_tunnels),
            (&mut counts.links, self.max_links),
            (&mut counts.attachments_per_minute, self.max_attachments),
        ] {
            if let Some(setting) = option {
                *field = setting.value();
            }
        }
        if let Some(weight) = self.weight {
            limits.weight = weight;
        }
        Ok(Some(limits))
    }

    fn apply_rates(&self, limits: &mut Limits) -> anyhow::Result<()> {
        let rates = &mut limits.rates;
        let mut fields = [
            (&mut rates.both, self.rate),
            (&mut rates.up, self.rate_up),
            (&mut rates.down, self.rate_down),
        ];
        for (field, option) in &mut fields {
            if let Some(setting) = *option {
                let burst = field.and_then(|limit| limit.burst);
                **field = setting.value().map(|rate| RateLimit { rate, burst });
            }
        }
        let Some(burst) = self.burst else {
            return Ok(());
        };
        let mut has_rate = false;
        for limit in fields.into_iter().filter_map(|(field, _)| field.as_mut()) {
            limit.burst = burst.value();
            has_rate = true;
        }
        if !has_rate {
            bail!("--burst has no effect without a rate (add --rate, --rate-up or --rate-down)");
        }
        Ok(())
    }
}

/// Reads a quota, or `none`.
fn quota(text: &str) -> Result<Setting<Quota>, String> {
    if text == "none" {
        return Ok(Setting::Remove);
    }
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let invalid = || format!("\"{text}\" is not a quota ({QUOTA_FORM})");
    let (bytes, unit) = first.rsplit_once('/').ok_or_else(invalid)?;
    let bytes: ByteSize = json_value(bytes.trim())?;
    let unit: PeriodUnit = json_value(unit.trim()).map_err(|_| invalid())?;
    let mut quota = Quota::new(Period::new(unit), bytes);
    let mut thresholds = Vec::new();
    for part in parts {
        let (name, value) = part.split_once('=').ok_or_else(invalid)?;
        let problem = |error: String| format!("{name}: {error}");
        match name.trim() {
            "reset" => {
                let day = value.parse().map_err(|_| "it is not a day".to_owned());
                quota.period.reset_day = Some(day.map_err(problem)?);
            }
            "time" => quota.period.reset_time = json_value(value).map_err(problem)?,
            "zone" => {
                let zone = value.parse::<Zone>().map_err(|error| error.to_string());
                quota.period.zone = zone.map_err(problem)?;
            }
            "direction" => quota.direction = json_value(value).map_err(problem)?,
            "at" => thresholds.push(threshold(value).map_err(problem)?),
            _ => return Err(invalid()),
        }
    }
    if !thresholds.is_empty() {
        quota.thresholds = thresholds;
    }
    Ok(Setting::To(quota))
}

/// Reads a threshold: `80:notify`, `95:slow`, `95:slow:1 MiB/s`, `100:stop`.
fn threshold(text: &str) -> Result<Threshold, String> {
    let invalid = || {
        format!(
            "\"{text}\" is not a threshold (write PERCENT:ACTION such as \"80:notify\", \
             \"95:slow:1 MiB/s\" or \"100:stop\")"
        )
    };
    let mut parts = text.splitn(3, ':');
    let percent = parts.next().and_then(|percent| percent.parse().ok());
    let action = parts.next().ok_or_else(invalid)?;
    Ok(Threshold {
        percent: percent.ok_or_else(invalid)?,
        action: json_value::<ThresholdAction>(action).map_err(|_| invalid())?,
        rate: parts.next().map(json_value).transpose()?,
    })
}

/// Returns the limits as text, or the empty text if there are none.
pub(super) fn limits_text(limits: &Limits) -> String {
    let mut parts = Vec::new();
    for (limit, direction) in [
        (limits.rates.both, ""),
        (limits.rates.up, " up"),
        (limits.rates.down, " down"),
    ] {
        if let Some(RateLimit { rate, burst }) = limit {
            let burst = burst.map_or_else(String::new, |burst| {
                format!(" (burst {})", round_size(burst))
            });
            let rate = round_size(ByteSize(rate.0));
            parts.push(format!("{rate}/s{direction}{burst}"));
        }
    }
    parts.extend(limits.quotas.iter().map(quota_text));
    let counts = &limits.counts;
    for (number, noun) in [
        (counts.tunnels, "tunnels"),
        (counts.links, "links"),
        (counts.attachments_per_minute, "attachments/min"),
    ] {
        parts.extend(number.map(|number| format!("{number} {noun}")));
    }
    if limits.weight != 1 {
        parts.push(format!("weight {}", limits.weight));
    }
    parts.join(", ")
}

/// Returns a quota as text.
fn quota_text(quota: &Quota) -> String {
    let direction = match quota.direction {
        Direction::Both => "",
        Direction::Up => " up",
        Direction::Down => " down",
    };
    let (bytes, period) = (round_size(quota.bytes), period_text(&quota.period));
    format!("{bytes}{direction}/{period}")
}

/// Returns a period as text, without the parts that have their default.
fn period_text(period: &Period) -> String {
    let mut text = match period.unit {
        PeriodUnit::Day => "day",
        PeriodUnit::Week => "week",
        PeriodUnit::Month => "month",
        PeriodUnit::Total => "total",
    }
    .to_owned();
    if let Some(day) = period.reset_day {
        text.push_str(&format!(" from day {day}"));
    }
    if period.reset_time != TimeOfDay::default() {
        text.push_str(&format!(" at {}", period.reset_time));
    }
    if period.zone != Zone::UTC {
        text.push_str(&format!(" {}", period.zone));
    }
    text
}

/// Returns a size with the largest unit, decimal or binary, that divides it.
fn round_size(size: ByteSize) -> String {
    let units = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "KB"),
    ];
    let decimal = units
        .into_iter()
        .find(|(bytes, _)| size.0 > 0 && size.0.is_multiple_of(*bytes));
    match decimal {
        Some((bytes, unit)) => format!("{} {unit}", size.0 / bytes),
        None => size.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitOptions,
    }

    fn options(arguments: &[&str]) -> LimitOptions {
        let arguments = ["test"].into_iter().chain(arguments.iter().copied());
        Line::try_parse_from(arguments).unwrap().limits
    }

    fn changed(present: &Limits, arguments: &[&str]) -> Limits {
        options(arguments).apply(present).unwrap().unwrap()
    }

    #[test]
    fn given_limits_change_and_others_stay() {
        let none = Limits::default();
        let limits = changed(
            &none,
            &[
                "--rate-up=10 MiB/s",
                "--rate=8 Mbit/s",
                "--burst=1 MiB",
                "--quota=1 TB/month,reset=15,zone=Europe/Berlin",
                "--max-tunnels=5",
            ],
        );
        assert_eq!(
            limits_text(&limits),
            "1 MB/s (burst 1 MiB), 10 MiB/s up (burst 1 MiB), \
             1 TB/month from day 15 Europe/Berlin, 5 tunnels"
        );
        let limits = changed(&limits, &["--rate=none", "--max-links=2", "--weight=3"]);
        assert_eq!(
            limits_text(&limits),
            "10 MiB/s up (burst 1 MiB), 1 TB/month from day 15 Europe/Berlin, 5 tunnels, \
             2 links, weight 3"
        );
        let limits = changed(&limits, &["--rate-up=20 MiB/s", "--quota=none"]);
        assert_eq!(
            limits_text(&limits),
            "20 MiB/s up (burst 1 MiB), 5 tunnels, 2 links, weight 3"
        );
        assert_eq!(options(&[]).apply(&limits).unwrap(), None);
        assert_eq!(limits_text(&none), "");
    }

    #[test]
    fn a_burst_needs_a_rate() {
        let error = options(&["--burst=1 MiB"]).apply(&Limits::default());
        assert!(error.unwrap_err().to_string().contains("--rate-up"));
    }

    #[test]
    fn quotas_have_optional_parts() {
        let read = |text: &str| quota(text).unwrap().value().unwrap();
        let daily = read("500 MB/day");
        assert_eq!(
            daily,
            Quota::new(Period::new(PeriodUnit::Day), ByteSize(500_000_000))
        );
        let weekly =
            read("10 GiB/week,reset=7,time=06:30,direction=up,at=80:notify,at=90:slow:1 MiB/s");
        assert_eq!(weekly.period.to_string(), "week 7 06:30 UTC");
        assert_eq!(weekly.direction, Direction::Up);
        let rates: Vec<_> = weekly
            .thresholds
            .iter()
            .map(|at| (at.percent, at.rate))
            .collect();
        assert_eq!(rates, [(80, None), (90, Some(Rate(1 << 20)))]);
        assert_eq!(quota_text(&weekly), "10 GiB up/week from day 7 at 06:30");
        assert_eq!(quota("none").unwrap(), Setting::Remove);
    }

    #[test]
    fn bad_quotas_name_the_part_and_the_remedy() {
        for (text, part) in [
            ("1 TB", "\"1 TB\" is not a quota (write SIZE/UNIT"),
            ("1 apple/day", "\"1 apple\" is not a size"),
            ("1 TB/year", "\"1 TB/year\" is not a quota"),
            ("1 TB/month,zone=Mars", "zone: \"Mars\" is not a time zone"),
            (
                "1 TB/month,time=25:00",
                "time: \"25:00\" is not a time of day",
            ),
            ("1 TB/month,reset=x", "reset: it is not a day"),
            ("1 TB/month,at=80", "at: \"80\" is not a threshold"),
            (
                "1 TB/month,at=80:explode",
                "at: \"80:explode\" is not a threshold",
            ),
            ("1 TB/month,at=80:slow:fast", "at: \"fast\" is not a rate"),
            ("1 TB/month,colour=red", "is not a quota"),
        ] {
            let error = quota(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
