//! The check of the congestion control of links.

use std::time::Duration;

use super::{DoctorStep, MasterSubject};
use crate::net::{
    congestion_control::{
        CongestionControl, CongestionControlInUse, LinkCongestionControl, is_same_host,
    },
    dial::Dialer,
    websocket::MessageSocket,
};

/// The name of the step.
const STEP: &str = "congestion";

/// Returns the step of a link, whose socket has just been dialled.
pub(super) fn check_link(master: &str, dialer: &Dialer, socket: &MessageSocket) -> DoctorStep {
    let is_same_host = socket
        .connection()
        .is_none_or(|connection| is_same_host(connection.local, connection.peer));
    let control = dialer.congestion_control();
    step(master, control, socket.congestion_control(), is_same_host)
}

/// Returns the step of a master. Peers of a master that listens on loopback only are on its host.
pub(super) fn check_listeners(master: &MasterSubject) -> DoctorStep {
    let mut addresses = master
        .addresses
        .iter()
        .filter_map(|address| address.resolved.as_ref().ok())
        .flatten();
    let is_same_host = addresses.all(|address| address.ip().is_loopback());
    let control = LinkCongestionControl::new(master.congestion_control);
    step("", &control, control.expected(is_same_host), is_same_host)
}

fn step(
    subject: &str,
    control: &LinkCongestionControl,
    in_use: CongestionControlInUse,
    is_same_host: bool,
) -> DoctorStep {
    let mut evidence = match in_use {
        CongestionControlInUse::Chosen(name) => format!("{name}, set by rePort"),
        CongestionControlInUse::System(name) => format!("{name}, the system's"),
        CongestionControlInUse::Unknown => "the system does not report the algorithm".to_owned(),
    };
    let problem = control
        .problem()
        .filter(|_| control.applies_to(is_same_host));
    if let Some(problem) = problem {
        let evidence = format!("{evidence}; {}", problem.evidence);
        let problem = problem.with_evidence(evidence);
        return DoctorStep::warning(STEP, subject, Duration::ZERO, problem);
    }
    if in_use == CongestionControlInUse::Unknown {
        return DoctorStep::skipped(STEP, subject, evidence);
    }
    if is_same_host && control.setting() == CongestionControl::Auto {
        evidence.push_str(": the connection stays on this machine");
    }
    DoctorStep::ok(STEP, subject, Duration::ZERO, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::{ListenAddress, StepOutcome},
        link::authenticate::LinkSecret,
    };

    fn master(listens_at: &str, congestion_control: &str) -> MasterSubject {
        MasterSubject {
            addresses: vec![ListenAddress {
                written: listens_at.to_owned(),
                resolved: Ok(vec![listens_at.parse().expect("an address")]),
            }],
            path: "/".to_owned(),
            secret: LinkSecret::Anonymous,
            tls: None,
            healthz: false,
            peer_requirement: None,
            congestion_control: congestion_control.parse().expect("a setting"),
        }
    }

    #[test]
    fn a_master_on_loopback_keeps_the_systems_without_a_warning() {
        let step = check_listeners(&master("127.0.0.1:1", "auto"));
        if cfg!(target_os = "linux") {
            assert_eq!(step.outcome, StepOutcome::Ok, "{step:?}");
            assert!(step.evidence.contains("the system's"), "{step:?}");
        } else {
            assert_eq!(step.outcome, StepOutcome::Skipped, "{step:?}");
        }
    }

    #[test]
    fn an_algorithm_that_cannot_be_set_is_a_warning_with_its_code_and_remedy() {
        let step = check_listeners(&master("0.0.0.0:1", "no_such_one"));
        assert_eq!(step.outcome, StepOutcome::Warning, "{step:?}");
        let code = step.code.map(|code| code.name());
        assert_eq!(code, Some("congestion_control_unavailable"));
        assert!(step.evidence.contains("no_such_one"), "{step:?}");
        assert!(step.remedy.is_some(), "{step:?}");
    }
}
