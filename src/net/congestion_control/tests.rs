use tokio::net::TcpListener;

use super::*;

fn setting(text: &str) -> CongestionControl {
    text.parse().expect(text)
}

fn link(text: &str) -> LinkCongestionControl {
    LinkCongestionControl::new(setting(text))
}

/// Returns a connection over loopback, and its listener.
async fn connection() -> (TcpStream, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let stream = TcpStream::connect(address).await.expect("it listens");
    (stream, listener)
}

/// Returns the algorithms that every process may use. Empty on systems without the list.
fn allowed() -> Vec<String> {
    let list = fs::read_to_string(ALLOWED).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn settings_are_two_words_or_a_name() {
    assert_eq!(setting("auto"), CongestionControl::default());
    assert_eq!(setting("system"), CongestionControl::System);
    assert_eq!(setting("bbr"), CongestionControl::Named(BBR));
    for text in ["auto", "system", "bbr", "tcp_x-2", "fifteen_letters"] {
        assert_eq!(setting(text).to_string(), text);
    }
    for text in ["", "BBR", "b br", "bbr\0", "ß", "sixteen__letters"] {
        let error = text.parse::<CongestionControl>().expect_err(text);
        assert_eq!(error.to_string(), format!("is {text:?}"));
    }
}

#[test]
fn hosts_are_compared_by_their_addresses() {
    for (local, peer, is_same) in [
        ("127.0.0.1:1", "127.0.0.2:2", true),
        ("[::1]:1", "[::1]:2", true),
        ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2", true),
        ("192.0.2.1:1", "192.0.2.1:2", true),
        ("[::ffff:192.0.2.1]:1", "192.0.2.1:2", true),
        ("192.0.2.1:1", "192.0.2.2:2", false),
        ("[2001:db8::1]:1", "[2001:db8::2]:2", false),
    ] {
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        assert_eq!(is_same_host(local, peer), is_same, "{local} {peer}");
    }
}

#[tokio::test]
async fn an_allowed_algorithm_is_in_use_after_its_name_is_applied() {
    let (stream, _listener) = connection().await;
    for name in allowed() {
        let control = link(&name);
        assert_eq!(control.problem(), None);
        let in_use = control.apply(&stream).algorithm().expect("known");
        assert_eq!(in_use.as_str(), name);
        assert_eq!(system::current(&stream), Some(in_use), "in the kernel");
    }
}

#[tokio::test]
async fn auto_keeps_the_systems_algorithm_within_a_host() {
    let (stream, _listener) = connection().await;
    let before = system::current(&stream);
    let expected = before.map_or(
        CongestionControlInUse::Unknown,
        CongestionControlInUse::System,
    );
    let auto = link("auto");
    assert_eq!(auto.apply(&stream), expected);
    assert_eq!(auto.expected(true), expected);
    assert_eq!(link("system").apply(&stream), expected);
    assert_eq!(system::current(&stream), before);
}

#[tokio::test]
async fn auto_uses_bbr_with_other_hosts_where_it_is_allowed() {
    let (stream, _listener) = connection().await;
    let auto = link("auto");
    let in_use = auto.apply_to(&stream, false);
    assert_eq!(in_use, auto.expected(false));
    assert_eq!(in_use.algorithm(), system::current(&stream));
    if allowed().iter().any(|name| name == "bbr") {
        assert_eq!(in_use.algorithm(), Some(BBR));
    }
    let is_in_use = in_use.algorithm() == Some(BBR);
    let is_reported = auto.problem().is_some();
    assert_eq!(
        is_in_use || is_reported,
        cfg!(target_os = "linux"),
        "on Linux it is in use, or the reason is reported"
    );
}

#[tokio::test]
async fn an_unknown_name_is_reported_and_the_connection_keeps_the_systems() {
    let (stream, _listener) = connection().await;
    let before = system::current(&stream);
    let control = link("no_such_one");
    let problem = control.problem().expect("a problem");
    assert_eq!(problem.code, DiagnosisCode::CongestionControlUnavailable);
    assert!(problem.evidence.contains("no_such_one"), "{problem}");
    let remedy = "`congestion_control`";
    assert!(problem.remedy.contains(remedy), "{problem}");
    assert_eq!(control.apply(&stream).algorithm(), before);
}

#[test]
fn a_refusal_names_the_command_that_permits_the_algorithm() {
    let refused = |text, error| LinkCongestionControl {
        setting: setting(text),
        unavailable: Some(error),
    };
    for error in [AlgorithmError::NotPermitted, AlgorithmError::NotLoaded] {
        for text in ["auto", "bbr"] {
            let problem = refused(text, error).problem().expect("a problem");
            let command = "sysctl -w net.ipv4.tcp_allowed_congestion_control=";
            assert!(problem.remedy.contains(command), "{problem}");
        }
    }
    let unsupported = AlgorithmError::Unsupported;
    assert_eq!(refused("auto", unsupported).problem(), None);
    assert!(refused("bbr", unsupported).problem().is_some());
}

#[test]
fn the_command_loads_the_module_if_necessary_and_keeps_the_list() {
    let set = "sysctl -w net.ipv4.tcp_allowed_congestion_control";
    assert_eq!(
        command(BBR, "reno cubic\n", "reno cubic\n"),
        format!("modprobe tcp_bbr && {set}=\"reno cubic bbr\"")
    );
    assert_eq!(
        command(BBR, "reno bbr cubic\n", "reno htcp\n"),
        format!("{set}=\"reno htcp bbr\"")
    );
    assert_eq!(
        command(BBR, "", ""),
        format!("modprobe tcp_bbr && {set}=\"reno cubic bbr\"")
    );
}
