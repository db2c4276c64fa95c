//! Tests of the policies at a master: decisions about links, registrations and attachments, and
//! their enforcement on running ones.

mod decisions;
mod enforcement;
mod operator;

use super::{
    credentials::{record, secret},
    *,
};
use crate::{
    config::UnknownKeys,
    policy::{
        self, Account, AccountId, Admission, Affected, ByteSize, Changes, Denied, Limits, Rate,
        RateLimit, Rates, ServiceKey, UnixTime,
    },
};
use report_proto::frame::RefusedPort;

/// A clock that follows the paused time of a test.
#[derive(Debug)]
struct TestClock(tokio::time::Instant);

/// The start of the tests, in Unix seconds.
const START: i64 = 1_000_000;

impl TestClock {
    fn start() -> Arc<Self> {
        Arc::new(TestClock(tokio::time::Instant::now()))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_secs(START as u64) + self.0.elapsed()
    }
}

fn policies(admission: Admission) -> Arc<MasterPolicies> {
    MasterPolicies::new(admission, UnknownKeys::Refuse, TestClock::start())
}

/// Starts a master with these policies. The accounts 2 and 3 have the server credentials 2 and 3,
/// and the client credentials 12 and 13.
fn start_deciding(
    policies: Arc<MasterPolicies>,
    change: impl FnOnce(&mut Changes),
) -> RunningMaster {
    let mut changes = accounts();
    change(&mut changes);
    policies.apply(changes, true);
    start_with(|parameters| parameters.policies = policies)
}

fn accounts() -> Changes {
    let with_account = |byte, role, account: i64| {
        let mut record = record((byte, role));
        record.credential.account = AccountId(account);
        record
    };
    Changes {
        accounts: vec![
            Account::new(AccountId::MASTER, "master"),
            Account::new(AccountId(2), "two"),
            Account::new(AccountId(3), "three"),
        ],
        credentials: vec![
            with_account(2, Role::Server, 2),
            with_account(3, Role::Server, 3),
            with_account(12, Role::Client, 2),
            with_account(13, Role::Client, 3),
        ],
        ..Changes::default()
    }
}

fn account(id: i64, change: impl FnOnce(&mut Account)) -> Changes {
    let mut account = Account::new(AccountId(id), format!("account {id}"));
    change(&mut account);
    Changes {
        accounts: vec![account],
        ..Changes::default()
    }
}

fn service_key(change: impl FnOnce(&mut ServiceKey)) -> Changes {
    let mut key = ServiceKey::new(PORT, "service");
    change(&mut key);
    Changes {
        keys: vec![key],
        ..Changes::default()
    }
}

fn refused(key: Id, denied: Denied) -> Registered {
    Registered {
        ports: Vec::new(),
        refused: vec![RefusedPort {
            port: key,
            notice: Notice::new(Code::Denied, denied.to_string()),
        }],
    }
}

impl RunningMaster {
    fn change(&self, changes: Changes) -> Affected {
        self.shared.router.change_policies(changes, false)
    }

    /// Joins as a server with the credential, and registers a key id. Returns the answer too.
    async fn server_with(&self, byte: u8, key: Id) -> (TestPeer, Registered) {
        let register = Frame::Register(Ports { ports: vec![key] });
        let mut peer = self
            .join_with_key(&secret(byte), Role::Server, byte, 1, &[register])
            .await
            .expect("joined");
        let Frame::Registered(answer) = peer.next().await else {
            panic!("REGISTERED was expected")
        };
        (peer, answer)
    }

    async fn client_with(&self, byte: u8) -> TestPeer {
        self.join_with_key(&secret(byte), Role::Client, byte, 1, &[])
            .await
            .expect("joined")
    }

    /// Joins with a credential that is denied. Returns the reason.
    async fn denied(&self, byte: u8, role: Role, instance: u8) -> String {
        let key = secret(byte);
        match self.join_with_key(&key, role, instance, 1, &[]).await {
            Err(JoinError::Denied(notice)) => notice.reason,
            other => panic!("a denial is expected, not {:?}", other.err()),
        }
    }

    fn refusals(&self, stage: &'static str, denied: Denied) -> u64 {
        let all = self.shared.router.refusals.all();
        all.get(&(stage, denied.code())).copied().unwrap_or(0)
    }
}

/// Splices a channel of the client to the server. Returns the server's channel.
async fn splice(client: &mut TestPeer, channel: u32, server: &mut TestPeer) -> u32 {
    client.attach(channel, PORT).await;
    let opened = server.answer().await;
    client.expect_data(channel, b"answer").await;
    opened
}

fn limits(up: u64) -> Limits {
    Limits {
        rates: Rates {
            up: Some(RateLimit {
                rate: Rate(up),
                burst: Some(ByteSize(1 << 20)),
            }),
            ..Rates::default()
        },
        ..Limits::default()
    }
}
