//! The rounds of NTLM and Negotiate, by the `sspi` crate. A round may ask a Kerberos server (KDC), so that it runs where it may block.
//!
//! The KDC is that of the user's realm in `/etc/krb5.conf` (or `KRB5_CONFIG`), or `SSPI_KDC_URL`. Without one, Negotiate carries NTLM.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use sspi::{
    AuthIdentity, BufferType, ClientRequestFlags, CredentialUse, Credentials, CredentialsBuffers,
    DataRepresentation, Error, ErrorKind, Negotiate, NegotiateConfig, SecurityBuffer, Sspi,
    SspiImpl, Username, UsernameParts,
    generator::NetworkRequest,
    network_client::{NetworkClient, NetworkProtocol},
    ntlm::NtlmConfig,
};
use zeroize::Zeroizing;

use super::{address::ProxyUser, authentication::Scheme};

/// What we call this machine: nobody needs to know its name, and some proxies want one (curl says the same).
const WORKSTATION: &str = "WORKSTATION";

/// For each step of an exchange with a KDC.
const KDC_PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer of a KDC over TCP, in bytes: a ticket of a user in a thousand groups takes less than a tenth of it.
const KDC_ANSWER: usize = 1024 * 1024;

/// The longest answer of a KDC over UDP, in bytes.
const KDC_DATAGRAM: usize = 64 * 1024;

/// What `Negotiate` is to carry: one of the two, so that a failure of Kerberos is known here, and nobody on the way can choose the weaker one.
const KERBEROS: &str = "kerberos,!ntlm,!pku2u";
const NTLM: &str = "!kerberos,ntlm,!pku2u";

/// Why there is nothing to say to a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct TokenError {
    reason: String,
    remedy: String,
}

/// One side of such a conversation.
pub struct Tokens {
    context: Context,
    /// What to begin with instead, when the KDC knows no such user or service, or there is no KDC.
    instead: Vec<(Username, &'static str)>,
    password: Zeroizing<String>,
    /// Why it is not Kerberos.
    doubt: Option<TokenError>,
    /// Whom it is with: `HTTP/host`.
    target: String,
}

enum Context {
    Ntlm(Box<sspi::Ntlm>, Option<sspi::AuthIdentityBuffers>),
    Negotiate(Box<Negotiate>, Option<CredentialsBuffers>),
}

impl Tokens {
    /// Nothing was said yet.
    ///
    /// # Errors
    /// When the name of the user cannot be one there.
    pub fn new(scheme: Scheme, user: &ProxyUser, proxy_host: &str) -> Result<Self, TokenError> {
        let target = format!("HTTP/{proxy_host}");
        let username = Username::parse(&user.name).map_err(|error| TokenError {
            reason: format!("the user cannot be one there ({error})"),
            remedy: "write USER, DOMAIN\\USER or USER@REALM in `proxy`".to_owned(),
        })?;
        let password = Zeroizing::new(user.password().to_owned());
        let context = match scheme {
            Scheme::Negotiate => negotiate(username.clone(), &password, KERBEROS),
            _ => ntlm(username.clone(), &password),
        };
        let context = context.map_err(|error| said(&error, &target))?;
        let instead = if scheme == Scheme::Negotiate {
            instead_of(username)
        } else {
            Vec::new()
        };
        Ok(Tokens {
            context,
            instead,
            password,
            doubt: None,
            target,
        })
    }

    /// Why Negotiate carries NTLM, when it does.
    pub fn doubt(&self) -> Option<&TokenError> {
        self.doubt.as_ref()
    }

    /// What to say, after the other side has said `heard`.
    ///
    /// # Errors
    /// Why there is nothing to say.
    pub async fn next(mut self, heard: Option<Vec<u8>>) -> Result<(Self, Vec<u8>), TokenError> {
        let round = move || match heard {
            Some(heard) => self
                .round(heard)
                .map_err(|error| said(&error, &self.target))
                .map(|token| (self, token)),
            None => self.begin().map(|token| (self, token)),
        };
        tokio::task::spawn_blocking(round)
            .await
            .unwrap_or_else(|error| {
                let (reason, remedy) = (
                    format!("its computation failed: {error}"),
                    "please report this".to_owned(),
                );
                Err(TokenError { reason, remedy })
            })
    }

    /// The first thing to say: of what can be begun with, the first that can.
    fn begin(&mut self) -> Result<Vec<u8>, TokenError> {
        loop {
            let error = match self.round(Vec::new()) {
                Ok(token) => return Ok(token),
                Err(error) => error,
            };
            let is_unknown = error.error_type == ErrorKind::UnknownCredentials;
            // A wrong password would be as wrong in NTLM, and is better heard of at once.
            let is_without = is_unknown
                || matches!(
                    error.error_type,
                    ErrorKind::NoAuthenticatingAuthority | ErrorKind::TimeSkew
                );
            // To whom the KDC says nothing of the user it says as little under another form of the name.
            self.instead
                .retain(|(_, packages)| is_unknown || *packages == NTLM);
            let problem = said(&error, &self.target);
            if !is_without || self.instead.is_empty() {
                return Err(problem);
            }
            let (username, packages) = self.instead.remove(0);
            self.doubt = Some(problem);
            self.context = negotiate(username, &self.password, packages)
                .map_err(|error| said(&error, &self.target))?;
        }
    }

    fn round(&mut self, heard: Vec<u8>) -> sspi::Result<Vec<u8>> {
        let mut input = vec![SecurityBuffer::new(heard, BufferType::Token)];
        let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
        match &mut self.context {
            Context::Ntlm(ntlm, credentials) => {
                let mut builder = ntlm
                    .initialize_security_context()
                    .with_credentials_handle(credentials)
                    .with_context_requirements(ClientRequestFlags::ALLOCATE_MEMORY)
                    .with_target_data_representation(DataRepresentation::Native)
                    .with_target_name(&self.target)
                    .with_input(&mut input)
                    .with_output(&mut output);
                SspiImpl::initialize_security_context_impl(ntlm.as_mut(), &mut builder)?
                    .resolve_to_result()?;
            }
            Context::Negotiate(negotiate, credentials) => {
                let mut builder = negotiate
                    .initialize_security_context()
                    .with_credentials_handle(credentials)
                    .with_context_requirements(
                        ClientRequestFlags::MUTUAL_AUTH | ClientRequestFlags::ALLOCATE_MEMORY,
                    )
                    .with_target_data_representation(DataRepresentation::Native)
                    .with_target_name(&self.target)
                    .with_input(&mut input)
                    .with_output(&mut output);
                SspiImpl::initialize_security_context_impl(negotiate.as_mut(), &mut builder)?
                    .resolve_with_client(&Kdc)?;
            }
        }
        let said = output
            .into_iter()
            .next()
            .map(|buffer| buffer.buffer)
            .unwrap_or_default();
        if said.is_empty() {
            Err(Error::new(
                ErrorKind::InvalidToken,
                "there is nothing left to say",
            ))
        } else {
            Ok(said)
        }
    }
}

/// For `user@suffix`: Active Directory looks it up as it is (an enterprise name), MIT's and Heimdal's KDC know `user` of the realm alone. In the end, NTLM.
fn instead_of(username: Username) -> Vec<(Username, &'static str)> {
    let principal = match username.parts() {
        UsernameParts::UserPrincipalName(parts) => {
            Username::new_down_level_logon_name(parts.account_name(), parts.suffix()).ok()
        }
        UsernameParts::DownLevelLogonName(_) => None,
    };
    principal
        .map(|principal| (principal, KERBEROS))
        .into_iter()
        .chain([(username, NTLM)])
        .collect()
}

fn identity(username: Username, password: &str) -> AuthIdentity {
    AuthIdentity {
        username,
        password: password.to_owned().into(),
    }
}

fn ntlm(username: Username, password: &str) -> sspi::Result<Context> {
    let mut ntlm = Box::new(sspi::Ntlm::with_config(NtlmConfig::new(
        WORKSTATION.to_owned(),
    )));
    let identity = identity(username, password);
    let acquired = ntlm
        .acquire_credentials_handle()
        .with_credential_use(CredentialUse::Outbound)
        .with_auth_data(&identity);
    let credentials = acquired.execute(ntlm.as_mut())?.credentials_handle;
    Ok(Context::Ntlm(ntlm, credentials))
}

fn negotiate(username: Username, password: &str, packages: &str) -> sspi::Result<Context> {
    let ntlm = Box::new(NtlmConfig::new(WORKSTATION.to_owned()));
    let config = NegotiateConfig::new(ntlm, Some(packages.to_owned()), WORKSTATION.to_owned());
    let mut negotiate = Box::new(Negotiate::new_client(config)?);
    let identity = Credentials::from(identity(username, password));
    let acquired = negotiate
        .acquire_credentials_handle()
        .with_credential_use(CredentialUse::Outbound)
        .with_auth_data(&identity);
    let credentials = acquired.execute(negotiate.as_mut())?.credentials_handle;
    Ok(Context::Negotiate(negotiate, credentials))
}

/// What went wrong, and what can be done.
fn said(error: &Error, target: &str) -> TokenError {
    // What the KDC adds to it is repeated there as it stands in the program.
    let (text, _) = error
        .description
        .split_once(". Additional error")
        .unwrap_or((&error.description, ""));
    let reason = if text.is_empty() {
        format!("{:?}", error.error_type)
    } else {
        text.to_owned()
    };
    let remedy = match error.error_type {
        ErrorKind::NoAuthenticatingAuthority => {
            "for Kerberos write USER@REALM in `proxy`, and the realm's KDC in /etc/krb5.conf (or the file that KRB5_CONFIG names)"
                .to_owned()
        }
        ErrorKind::UnknownCredentials if text.starts_with("server") => {
            format!("the realm has no service {target}: write the proxy's name as the realm knows it in `proxy`")
        }
        ErrorKind::TimeSkew => "set this machine's clock".to_owned(),
        ErrorKind::InvalidToken if text.contains("AS_REQ") => {
            "let the realm require pre-authentication of this user, without which rePort asks for no ticket".to_owned()
        }
        _ => "check the user and the password in `proxy`".to_owned(),
    };
    TokenError { reason, remedy }
}

/// Asks a KDC. Over TCP a length stands before each message; over UDP none, yet one is expected before the answer.
struct Kdc;

impl NetworkClient for Kdc {
    fn send(&self, request: &NetworkRequest) -> sspi::Result<Vec<u8>> {
        let (host, port) = (
            request.url.host_str().unwrap_or_default(),
            request.url.port().unwrap_or(88),
        );
        let answer = match request.protocol {
            NetworkProtocol::Tcp => over_tcp(host, port, &request.data),
            NetworkProtocol::Udp => over_udp(host, port, &request.data),
            NetworkProtocol::Http | NetworkProtocol::Https => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "proxies of KDCs are not supported",
            )),
        };
        let failed = |error| {
            Error::new(
                ErrorKind::NoAuthenticatingAuthority,
                format!("no answer from the KDC {host}:{port}: {error}"),
            )
        };
        answer.map_err(failed)
    }
}

fn over_tcp(host: &str, port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, KDC_PATIENCE) {
            Ok(stream) => return exchange(stream, request),
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

fn exchange(mut stream: TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(KDC_PATIENCE))?;
    stream.write_all(request)?;
    let deadline = Instant::now() + KDC_PATIENCE;
    let mut length = [0; 4];
    read_all(&mut stream, &mut length, deadline)?;
    let announced = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if announced > KDC_ANSWER {
        let problem = format!(
            "it announces an answer of {announced} bytes, more than {KDC_ANSWER}: is it a KDC?"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut answer = length.to_vec();
    answer.resize(length.len() + announced, 0);
    read_all(&mut stream, answer.split_at_mut(length.len()).1, deadline)?;
    Ok(answer)
}

/// Fills `bytes` before the deadline, however small the pieces that come.
fn read_all(stream: &mut TcpStream, mut bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => bytes = bytes.split_at_mut(length).1,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn over_udp(host: &str, port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let address = (host, port)
        .to_socket_addrs()?
        .next()
        .ok_or(io::ErrorKind::NotFound)?;
    let any = if address.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(KDC_PATIENCE))?;
    socket.connect(address)?;
    socket.send(request)?;
    let mut answer = vec![0; KDC_DATAGRAM];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    let mut framed = u32::try_from(length)
        .unwrap_or_default()
        .to_be_bytes()
        .to_vec();
    framed.append(&mut answer);
    Ok(framed)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// What is made of a KDC's answer to "asked".
    fn exchange_with(answer: impl FnOnce(TcpStream) + Send + 'static) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let kdc = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            answer(stream);
        });
        let outcome = exchange(stream, b"asked");
        kdc.join().unwrap();
        outcome
    }

    #[test]
    fn an_answer_of_a_kdc_is_read_whole() {
        let outcome = exchange_with(|mut stream| {
            for piece in [&[0, 0][..], &[0, 3, b'a'], b"bc"] {
                stream.write_all(piece).unwrap();
            }
        });
        assert_eq!(outcome.unwrap(), b"\0\0\0\x03abc");
    }

    #[test]
    fn a_kdc_that_announces_too_much_is_not_read() {
        let outcome = exchange_with(|mut stream| {
            stream.write_all(&(600_u32 << 20).to_be_bytes()).unwrap();
            // Ends when the other end closes.
            while stream.write_all(&[0; 65_536]).is_ok() {}
        });
        let error = outcome.unwrap_err().to_string();
        assert_eq!(
            error,
            "it announces an answer of 629145600 bytes, more than 1048576: is it a KDC?"
        );
    }

    #[test]
    fn a_kdc_that_sends_little_by_little_has_no_more_time() {
        let began = Instant::now();
        let outcome = exchange_with(|mut stream| {
            stream
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            stream.write_all(&1000_u32.to_be_bytes()).unwrap();
            while stream.write_all(&[0]).is_ok() && !matches!(stream.read(&mut [0]), Ok(0)) {}
        });
        assert!(outcome.is_err());
        assert!(began.elapsed() < KDC_PATIENCE * 2, "{:?}", began.elapsed());
    }
}
