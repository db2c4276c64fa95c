//! A master with a store, and curl as a client of its admin address.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{
    bytes,
    daemon::Daemon,
    ports, programs,
    tunnel::{Front, Testbed, with},
};

/// A token of the admin API, with its hash.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) hash: String,
}

impl Token {
    /// A new token.
    pub(super) fn new() -> Token {
        let random = bytes::hexadecimal(&bytes::random(fastrand::u64(..), 22));
        let text = format!("rt1_{}", &random[..43]);
        let hash = bytes::sha256(text.as_bytes());
        Token { text, hash }
    }
}

/// An admin address, and what curl needs for it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The fields of `admin` in the configuration.
    pub(super) admin: Value,
    /// The part of a URL before the path.
    url: String,
    options: Vec<String>,
}

impl Target {
    /// A unix socket in the folder of the testbed.
    pub(super) fn unix(testbed: &Testbed) -> Target {
        let socket = testbed.folder().join("admin.sock").display().to_string();
        Target {
            admin: json!({"listen_at": format!("unix:{socket}")}),
            url: "http://localhost".to_owned(),
            options: vec!["--unix-socket".to_owned(), socket],
        }
    }

    /// A loopback address.
    pub(super) fn loopback() -> Target {
        let address = ports::free().to_string();
        Target {
            url: format!("http://{address}"),
            admin: json!({"listen_at": address}),
            options: Vec::new(),
        }
    }

    /// All addresses of the machine, with TLS.
    pub(super) fn tls(testbed: &Testbed) -> Target {
        let port = ports::free().port();
        let (cert, key) = (&testbed.leaf().cert, &testbed.leaf().key);
        let listen_at = format!("0.0.0.0:{port}");
        let authority = testbed.authority().path().display().to_string();
        Target {
            admin: json!({"listen_at": listen_at, "tls": {"cert": cert, "key": key}}),
            url: format!("https://localhost:{port}"),
            options: vec!["--cacert".to_owned(), authority],
        }
    }

    /// The part of a URL before the path.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A request.
    pub(super) fn request(&self, method: &str, path: &str) -> Curl {
        let mut arguments = vec!["--request".to_owned(), method.to_owned()];
        arguments.extend(self.options.iter().cloned());
        Curl {
            url: format!("{}{path}", self.url),
            arguments,
        }
    }

    pub(super) fn get(&self, path: &str) -> Curl {
        self.request("GET", path)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Curl {
        self.request("POST", path).json(body)
    }

    /// Adds a token with a role, over an address that needs none.
    #[track_caller]
    pub(super) fn add_token(&self, role: &str) -> Token {
        let token = Token::new();
        let name = format!("{role} {}", &token.text[4..12]);
        let new = json!({"name": name, "role": role, "hash": token.hash});
        let added = self.post("/v1/tokens", &new).send();
        assert_eq!(added.status, 201, "{added:?}");
        token
    }
}

/// A request of curl.
pub(super) struct Curl {
    url: String,
    arguments: Vec<String>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header field.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Curl {
    pub(super) fn header(mut self, line: &str) -> Curl {
        self.arguments
            .extend(["--header".to_owned(), line.to_owned()]);
        self
    }

    pub(super) fn json(mut self, body: &Value) -> Curl {
        self.arguments
            .extend(["--data".to_owned(), body.to_string()]);
        self.header("Content-Type: application/json")
    }

    pub(super) fn token(self, token: &Token) -> Curl {
        self.header(&format!("Authorization: Bearer {}", token.text))
    }

    /// The command without options about the output.
    pub(super) fn command(&self) -> std::process::Command {
        let mut curl = programs::command("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*"]);
        curl.args(&self.arguments).arg(&self.url);
        curl
    }

    /// Sends the request.
    #[track_caller]
    pub(super) fn send(self) -> Answer {
        let mut curl = self.command();
        curl.args(["--max-time", "30", "--include"]);
        let text = programs::run(&mut curl).succeeded().text();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}

/// A master with a store, and its admin address. Its further starts use the same database.
pub(super) struct Relay {
    pub(super) testbed: Testbed,
}

impl Relay {
    pub(super) fn new() -> Relay {
        Relay {
            testbed: Testbed::new(Front::Direct),
        }
    }

    /// The database file.
    pub(super) fn database(&self) -> PathBuf {
        self.testbed.folder().join("keys.db")
    }

    /// The configuration of a master with this admin address.
    pub(super) fn configuration(&self, target: &Target) -> Value {
        let store = format!("sqlite:{}", self.database().display());
        let fields = json!({"store": store, "admin": target.admin});
        self.testbed.master_configuration(fields)
    }

    /// Starts a master, and waits until its admin address answers.
    #[track_caller]
    pub(super) fn start(&self, target: &Target) -> Daemon {
        let configuration = with(self.configuration(target), json!({}));
        let mut master = self.testbed.role("master", &configuration);
        master.wait_ready(|| {
            let mut curl = target.get("/livez").command();
            programs::run(curl.arg("--fail")).code == Some(0)
        });
        master
    }

    /// Starts a master at a unix socket, adds a token of each role, and stops it.
    #[track_caller]
    pub(super) fn tokens(&self) -> [Token; 3] {
        let target = Target::unix(&self.testbed);
        let mut master = self.start(&target);
        let tokens = ["read", "operate", "own"].map(|role| target.add_token(role));
        assert_eq!(master.stop().code(), Some(0));
        tokens
    }
}
