//! The events of a dial.

use std::sync::Mutex;

use super::{
    proxies::{authenticating_proxy, dialer_through},
    *,
};

/// Names the events of a dial.
#[derive(Default)]
struct EventNames(Mutex<Vec<String>>);

impl DialTrace for EventNames {
    fn record(&self, event: DialEvent<'_>) {
        let name = match event {
            DialEvent::Step(peer, step) => format!("{peer:?} {step}"),
            DialEvent::Resolved(addresses) => format!("{} resolved", addresses.len()),
            DialEvent::Connecting(_) => "connecting".to_owned(),
            DialEvent::Connected(_) => "connected".to_owned(),
            DialEvent::ProxyAnswer { status, scheme } => {
                format!("proxy {} {scheme:?}", status.as_u16())
            }
            DialEvent::TlsHandshake { negotiated, chain } => {
                format!("handshake {} {}", negotiated.is_some(), chain.len())
            }
            DialEvent::HttpAnswer { status, .. } => format!("answer {}", status.as_u16()),
        };
        self.0.lock().unwrap().push(name);
    }
}

/// Returns the names of the events of a dial, whatever its outcome.
async fn events(dialer: &Dialer) -> Vec<String> {
    let trace = EventNames::default();
    drop(dialer.dial_traced(&trace).await);
    trace.0.into_inner().unwrap()
}

#[tokio::test]
async fn trace_receives_every_step_of_a_direct_dial() {
    let authority = Authority::new();
    let master = TestListener::secure(authority.sign("127.0.0.1", |_| ())).await;
    let trusting = master.tls_dialer("127.0.0.1", &authority);
    let connected = [
        "Master name",
        "1 resolved",
        "Master TCP",
        "connecting",
        "connected",
        "Master TLS",
    ];
    assert_eq!(
        events(&trusting).await,
        [
            &connected[..],
            &["handshake true 1", "Master HTTP", "answer 101"]
        ]
        .concat()
    );
    let other = Authority::named("another authority");
    let distrusting = master.tls_dialer("127.0.0.1", &other);
    assert_eq!(
        events(&distrusting).await,
        [&connected[..], &["handshake false 1"]].concat(),
        "the rejected chain is observed too"
    );
}

#[tokio::test]
async fn trace_receives_the_answers_of_a_proxy() {
    let proxy = TestListener::with(authenticating_proxy).await;
    assert_eq!(
        events(&dialer_through(&proxy, "http", "ann:sesame@")).await,
        [
            "Proxy name",
            "1 resolved",
            "Proxy TCP",
            "connecting",
            "connected",
            "Proxy proxy",
            "proxy 407 None",
            "proxy 200 Some(Basic)",
            "Master HTTP",
            "answer 101",
        ]
    );
}
