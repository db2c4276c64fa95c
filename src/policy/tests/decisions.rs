use report_proto::frame::Role;

use super::*;

const NOW: i64 = 1_000;
const HERE: &str = "10.1.2.3";
const ELSEWHERE: &str = "192.0.2.7";

/// A change of the table, and the decision that follows.
type Case = (fn(&mut Changes), Result<(), Denied>);

/// A change of the table and of the query, and the decision that follows.
type AttachCase = (fn(&mut Changes, &mut AttachQuery), Result<(), Denied>);

/// A table with the accounts 2 and 3. Account 2 has the credentials 7 (server) and 8 (client).
fn table(change: impl FnOnce(&mut Changes)) -> PolicyTable {
    let mut client = credential(8, 2);
    client.credential.role = Role::Client;
    let mut changes = Changes {
        accounts: vec![
            Account::new(AccountId(2), "two"),
            Account::new(AccountId(3), "three"),
        ],
        credentials: vec![credential(7, 2), client],
        keys: vec![ServiceKey::new(key_id(1), "key")],
        ..Changes::default()
    };
    change(&mut changes);
    let mut table = PolicyTable::default();
    table.apply(changes);
    table
}

fn identity(number: u8) -> LinkIdentity {
    LinkIdentity::Credential(CredentialId(key_id(number)))
}

fn link(table: &PolicyTable, counts: [LiveCounts; 2]) -> Result<(), Denied> {
    table.decide_link(identity(7), Role::Server, address(HERE), NOW, counts)
}

fn links(links: u32) -> LiveCounts {
    LiveCounts {
        links,
        ..LiveCounts::default()
    }
}

#[test]
fn without_policies_the_relay_is_open() {
    let table = PolicyTable::default();
    let counts = [LiveCounts::default(); 2];
    for (identity, role) in [
        (LinkIdentity::MasterKey, Role::Server),
        (LinkIdentity::Anonymous, Role::Client),
    ] {
        let decision = table.decide_link(identity, role, address(HERE), NOW, counts);
        assert_eq!(decision, Ok(()));
    }
    let query = register(Admission::Open, AccountId::MASTER, None);
    assert_eq!(
        table.decide_register(&query, &RegisterCounts::default()),
        Ok(())
    );
    assert_eq!(
        table.decide_attach(&attach(), &AttachCounts::default()),
        Ok(())
    );
}

const LINK_CASES: &[Case] = &[
    (|_| {}, Ok(())),
    (
        |all| all.accounts[0].enabled = false,
        Err(Denied::AccountDisabled),
    ),
    (
        |all| all.accounts[0].not_before = seconds(NOW + 1),
        Err(Denied::AccountNotYetValid),
    ),
    (|all| all.accounts[0].not_before = seconds(NOW), Ok(())),
    (
        |all| all.accounts[0].expires = seconds(NOW),
        Err(Denied::AccountExpired),
    ),
    (|all| all.accounts[0].expires = seconds(NOW + 1), Ok(())),
    (
        |all| all.accounts[0].networks = networks(&["192.0.2.0/24"]),
        Err(Denied::AccountNetwork),
    ),
    (
        |all| all.accounts[0].networks = networks(&["10.0.0.0/8"]),
        Ok(()),
    ),
    (
        |all| drop(all.accounts.remove(0)),
        Err(Denied::AccountRemoved),
    ),
    (
        |all| all.credentials.clear(),
        Err(Denied::CredentialRevoked),
    ),
    (
        |all| all.credentials[0].credential.revoked = true,
        Err(Denied::CredentialRevoked),
    ),
    (
        |all| all.credentials[0].credential.not_before = seconds(NOW + 1),
        Err(Denied::CredentialNotYetValid),
    ),
    (
        |all| all.credentials[0].credential.expires = seconds(NOW),
        Err(Denied::CredentialExpired),
    ),
    (
        |all| all.credentials[0].credential.role = Role::Client,
        Err(Denied::CredentialRole),
    ),
    (|all| all.accounts[1].enabled = false, Ok(())),
];

#[test]
fn a_link_obeys_its_account_and_its_credential() {
    for (index, (change, expected)) in LINK_CASES.iter().enumerate() {
        let table = table(change);
        let decision = link(&table, [LiveCounts::default(); 2]);
        assert_eq!(decision, *expected, "case {index}");
    }
}

#[test]
fn links_are_limited_for_the_account_and_the_relay() {
    let table = table(|all| {
        all.accounts[0].limits.counts.links = Some(2);
        let mut relay = RelayPolicy::default();
        relay.limits.counts.links = Some(5);
        all.relay = Some(relay);
    });
    assert_eq!(link(&table, [links(1), links(4)]), Ok(()));
    assert_eq!(
        link(&table, [links(2), links(4)]),
        Err(Denied::AccountLinks)
    );
    assert_eq!(link(&table, [links(1), links(5)]), Err(Denied::RelayLinks));
}

#[test]
fn a_disabled_master_account_turns_the_master_key_off() {
    let table = table(|all| {
        let mut master = Account::new(AccountId::MASTER, "master");
        master.enabled = false;
        all.accounts.push(master);
    });
    let counts = [LiveCounts::default(); 2];
    let decision = |identity, role| table.decide_link(identity, role, address(HERE), NOW, counts);
    let master = decision(LinkIdentity::MasterKey, Role::Server);
    assert_eq!(master, Err(Denied::AccountDisabled));
    assert_eq!(decision(LinkIdentity::Anonymous, Role::Client), Ok(()));
    assert_eq!(decision(identity(7), Role::Server), Ok(()));
}

fn register(admission: Admission, account: AccountId, holder: Option<AccountId>) -> RegisterQuery {
    RegisterQuery {
        admission,
        key: key_id(1),
        account,
        visitor: address(HERE),
        holder,
        now: NOW,
    }
}

/// All combinations of the admission, the owner of the key (absent, none, this account, another
/// one) and the holder (none, this account, another one), against a plain statement of the rules.
#[test]
fn a_registration_obeys_the_admission() {
    let (this, other) = (AccountId(2), AccountId(3));
    for admission in [Admission::Open, Admission::Known, Admission::Owned] {
        for owner in [None, Some(None), Some(Some(this)), Some(Some(other))] {
            let table = table(|all| match owner {
                None => all.keys.clear(),
                Some(owner) => all.keys[0].account = owner,
            });
            for holder in [None, Some(this), Some(other)] {
                let query = register(admission, this, holder);
                let decision = table.decide_register(&query, &RegisterCounts::default());
                let expected = match (admission, owner) {
                    (Admission::Owned, Some(Some(owner))) if owner == this => Ok(()),
                    (Admission::Owned, _) => Err(Denied::KeyNotOwned),
                    (Admission::Known, None) => Err(Denied::KeyUnknown),
                    _ if holder == Some(other) => Err(Denied::KeyHeld),
                    _ => Ok(()),
                };
                assert_eq!(decision, expected, "{admission:?} {owner:?} {holder:?}");
            }
        }
    }
}

const REGISTER_CASES: &[Case] = &[
    (|all| all.keys[0].enabled = false, Err(Denied::KeyDisabled)),
    (
        |all| all.keys[0].not_before = seconds(NOW + 1),
        Err(Denied::KeyNotYetValid),
    ),
    (
        |all| all.keys[0].expires = seconds(NOW),
        Err(Denied::KeyExpired),
    ),
    (
        |all| all.keys[0].register_networks = networks(&[ELSEWHERE]),
        Err(Denied::KeyNetwork),
    ),
    (
        |all| all.keys[0].attach_networks = networks(&[ELSEWHERE]),
        Ok(()),
    ),
    (
        |all| {
            all.keys[0].account = Some(AccountId(3));
            all.accounts[1].enabled = false;
        },
        Err(Denied::KeyOwner),
    ),
    (|all| all.keys[0].limits.counts.links = Some(3), Ok(())),
    (
        |all| all.keys[0].limits.counts.links = Some(2),
        Err(Denied::KeyLinks),
    ),
    (|all| all.accounts[0].max_keys = Some(5), Ok(())),
    (
        |all| all.accounts[0].max_keys = Some(4),
        Err(Denied::AccountKeys),
    ),
];

#[test]
fn a_registration_obeys_its_key_and_its_account() {
    let counts = RegisterCounts {
        account: LiveCounts {
            keys: 4,
            ..LiveCounts::default()
        },
        key: links(2),
    };
    for (index, (change, expected)) in REGISTER_CASES.iter().enumerate() {
        let query = register(Admission::Open, AccountId(2), None);
        let decision = table(change).decide_register(&query, &counts);
        assert_eq!(decision, *expected, "case {index}");
    }
}

fn attach() -> AttachQuery {
    AttachQuery {
        key: key_id(1),
        identity: LinkIdentity::Anonymous,
        server: None,
        visitor: address(HERE),
        is_new_tunnel: true,
        now: NOW,
    }
}

const ATTACH_CASES: &[AttachCase] = &[
    (|_, _| {}, Ok(())),
    (|_, query| query.key = key_id(9), Ok(())),
    (
        |all, _| all.keys[0].enabled = false,
        Err(Denied::KeyDisabled),
    ),
    (
        |all, _| all.keys[0].expires = seconds(NOW),
        Err(Denied::KeyExpired),
    ),
    (
        |all, _| all.keys[0].attach_networks = networks(&[ELSEWHERE]),
        Err(Denied::KeyNetwork),
    ),
    (
        |all, _| all.keys[0].register_networks = networks(&[ELSEWHERE]),
        Ok(()),
    ),
    (
        |all, _| all.keys[0].needs_credential = true,
        Err(Denied::CredentialRequired),
    ),
    (
        |all, query| {
            all.keys[0].needs_credential = true;
            query.identity = identity(8);
        },
        Ok(()),
    ),
    (
        |all, query| {
            all.credentials[1].credential.revoked = true;
            query.identity = identity(8);
        },
        Err(Denied::CredentialRevoked),
    ),
    (
        |all, _| {
            all.keys[0].account = Some(AccountId(3));
            all.accounts[1].expires = seconds(NOW);
        },
        Err(Denied::KeyOwner),
    ),
    (
        |all, query| {
            query.server = Some(AccountId(3));
            all.accounts[1].enabled = false;
        },
        Err(Denied::KeyOwner),
    ),
];

#[test]
fn an_attachment_obeys_its_key_its_owner_and_its_client() {
    for (index, (change, expected)) in ATTACH_CASES.iter().enumerate() {
        let mut query = attach();
        let table = table(|all| change(all, &mut query));
        let decision = table.decide_attach(&query, &AttachCounts::default());
        assert_eq!(decision, *expected, "case {index}");
    }
}

const ACCOUNT_DENIALS: [Denied; 3] = [
    Denied::AccountTunnels,
    Denied::AccountAttachments,
    Denied::AccountQuota,
];

/// The denials of the key, the owner, the client's account and the relay.
const ATTACH_DENIALS: [[Denied; 3]; 4] = [
    [Denied::KeyTunnels, Denied::KeyAttachments, Denied::KeyQuota],
    ACCOUNT_DENIALS,
    ACCOUNT_DENIALS,
    [
        Denied::RelayTunnels,
        Denied::RelayAttachments,
        Denied::RelayQuota,
    ],
];

/// Returns counts that are 0 except for one subject, by its place in [`ATTACH_DENIALS`].
fn counts_of(index: usize, live: LiveCounts) -> AttachCounts {
    let mut counts = AttachCounts::default();
    match index {
        0 => counts.key = live,
        1 => counts.owner = live,
        2 => counts.client = live,
        _ => counts.relay = live,
    }
    counts
}

#[test]
fn tunnels_attachments_and_quotas_limit_each_subject() {
    let limits = Limits {
        counts: Counts {
            tunnels: Some(2),
            links: None,
            attachments_per_minute: Some(10),
        },
        ..Limits::default()
    };
    let table = table(|all| {
        all.keys[0].account = Some(AccountId(3));
        all.keys[0].limits = limits.clone();
        all.accounts[0].limits = limits.clone();
        all.accounts[1].limits = limits.clone();
        let limits = limits.clone();
        all.relay = Some(RelayPolicy {
            limits,
            reserve: None,
        });
    });
    let live = |tunnels, attachments, is_stopped| LiveCounts {
        tunnels,
        attachments,
        is_stopped,
        ..LiveCounts::default()
    };
    let decide = |index, live, is_new_tunnel| {
        let query = AttachQuery {
            identity: identity(8),
            is_new_tunnel,
            ..attach()
        };
        table.decide_attach(&query, &counts_of(index, live))
    };
    for (index, [tunnels, attachments, quota]) in ATTACH_DENIALS.into_iter().enumerate() {
        assert_eq!(decide(index, live(1, 9, false), true), Ok(()));
        assert_eq!(decide(index, live(2, 0, false), true), Err(tunnels));
        assert_eq!(decide(index, live(0, 10, false), true), Err(attachments));
        assert_eq!(decide(index, live(9, 99, false), false), Ok(()));
        assert_eq!(decide(index, live(0, 0, true), false), Err(quota));
    }
}

#[test]
fn a_client_of_the_owner_is_counted_once() {
    let table = table(|all| {
        all.keys[0].account = Some(AccountId(2));
        all.accounts[0].limits.counts.tunnels = Some(3);
    });
    let full = LiveCounts {
        tunnels: 3,
        ..LiveCounts::default()
    };
    let query = AttachQuery {
        identity: identity(8),
        ..attach()
    };
    let mut counts = AttachCounts {
        client: full,
        ..AttachCounts::default()
    };
    assert_eq!(table.decide_attach(&query, &counts), Ok(()));
    counts.owner = full;
    let decision = table.decide_attach(&query, &counts);
    assert_eq!(decision, Err(Denied::AccountTunnels));
}

#[test]
fn the_code_of_a_denial_is_its_json() {
    for denied in [
        Denied::AccountNotYetValid,
        Denied::CredentialRevoked,
        Denied::KeyHeld,
        Denied::RelayQuota,
    ] {
        let json = serde_json::to_value(denied).expect("JSON");
        assert_eq!(json, denied.code());
        assert_eq!(serde_json::from_value::<Denied>(json).ok(), Some(denied));
    }
    assert_eq!(
        Denied::KeyHeld.to_string(),
        "a server of another account has registered the key"
    );
}
