//! The token exchanges of NTLM and Negotiate, with the `sspi` crate. A round may query a Kerberos
//! server (KDC), so it runs on a thread for blocking work.
//!
//! The KDC is that of the user's realm in `/etc/krb5.conf` (or `KRB5_CONFIG`), or `SSPI_KDC_URL`.
//! Without one, Negotiate carries NTLM.

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

use super::{
    address::ProxyUser,
    auth_scheme::AuthScheme,
    token_error::{TokenError, TokenFault},
};

/// The name of this machine in NTLM. Some proxies require one; the real name stays private (curl
/// sends the same).
const WORKSTATION: &str = "WORKSTATION";

/// The timeout of each step of an exchange with a KDC.
const KDC_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum length of a KDC's answer over TCP, in bytes. The ticket of a user in a thousand
/// groups takes less than a tenth of it.
const MAX_KDC_ANSWER: usize = 1024 * 1024;

/// The maximum length of a KDC's answer over UDP, in bytes.
const MAX_KDC_DATAGRAM: usize = 64 * 1024;

/// The package that `Negotiate` carries. It is exactly one of the two: this side then detects a
/// Kerberos failure, and no attacker on the path can choose the weaker one.
const KERBEROS: &str = "kerberos,!ntlm,!pku2u";
const NTLM: &str = "!kerberos,ntlm,!pku2u";

/// The client side of an NTLM or Negotiate exchange.
pub(super) struct TokenExchange {
    context: SspiContext,
    /// Alternative user names and packages to begin with, if the KDC does not know the user or the
    /// service, or there is no KDC.
    fallbacks: Vec<(Username, &'static str)>,
    password: Zeroizing<String>,
    /// Why Kerberos was not used.
    fallback_reason: Option<TokenError>,
    /// The service principal, `HTTP/host`.
    target: String,
}

enum SspiContext {
    Ntlm(Box<sspi::Ntlm>, Option<sspi::AuthIdentityBuffers>),
    Negotiate(Box<Negotiate>, Option<CredentialsBuffers>),
}

impl TokenExchange {
    /// Starts an exchange; no token has been sent.
    ///
    /// # Errors
    /// If the user's name is not valid for the scheme.
    pub(super) fn new(
        scheme: AuthScheme,
        user: &ProxyUser,
        proxy_host: &str,
    ) -> Result<Self, TokenError> {
        let target = format!("HTTP/{proxy_host}");
        let username = Username::parse(&user.name).map_err(|error| TokenError {
            fault: TokenFault::UserName,
            reason: format!("the user name is not valid for it ({error})"),
        })?;
        let password = Zeroizing::new(user.password().to_owned());
        let context = match scheme {
            AuthScheme::Negotiate => negotiate(username.clone(), &password, KERBEROS),
            _ => ntlm(username.clone(), &password),
        };
        let context = context.map_err(|error| TokenError::new(&error, &target))?;
        let fallbacks = if scheme == AuthScheme::Negotiate {
            fallbacks_for(username)
        } else {
            Vec::new()
        };
        Ok(TokenExchange {
            context,
            fallbacks,
            password,
            fallback_reason: None,
            target,
        })
    }

    /// Returns why Negotiate carries NTLM, if it does.
    pub(super) fn fallback_reason(&self) -> Option<&TokenError> {
        self.fallback_reason.as_ref()
    }

    /// Returns the next token to send, after the proxy sent `received`.
    ///
    /// # Errors
    /// Why there is no token to send.
    pub(super) async fn next(
        mut self,
        received: Option<Vec<u8>>,
    ) -> Result<(Self, Vec<u8>), TokenError> {
        let round = move || match received {
            Some(received) => self
                .round(received)
                .map_err(|error| TokenError::new(&error, &self.target))
                .map(|token| (self, token)),
            None => self.begin().map(|token| (self, token)),
        };
        tokio::task::spawn_blocking(round)
            .await
            .unwrap_or_else(|error| {
                Err(TokenError {
                    fault: TokenFault::Internal,
                    reason: format!("its computation failed: {error}"),
                })
            })
    }

    /// Returns the first token, from the first alternative that works.
    fn begin(&mut self) -> Result<Vec<u8>, TokenError> {
        loop {
            let problem = match self.round(Vec::new()) {
                Ok(token) => return Ok(token),
                Err(error) => TokenError::new(&error, &self.target),
            };
            // If the KDC is unreachable, another form of the user's name does not help either: keep
            // only NTLM.
            self.fallbacks
                .retain(|(_, packages)| problem.is_unknown() || *packages == NTLM);
            // Do not fall back after a wrong password: it is wrong for NTLM too, and the error
            // should appear at once.
            if !problem.is_without_kerberos() || self.fallbacks.is_empty() {
                return Err(problem);
            }
            let (username, packages) = self.fallbacks.remove(0);
            self.fallback_reason = Some(problem);
            self.context = negotiate(username, &self.password, packages)
                .map_err(|error| TokenError::new(&error, &self.target))?;
        }
    }

    fn round(&mut self, received: Vec<u8>) -> sspi::Result<Vec<u8>> {
        let mut input = vec![SecurityBuffer::new(received, BufferType::Token)];
        let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
        match &mut self.context {
            SspiContext::Ntlm(ntlm, credentials) => {
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
            SspiContext::Negotiate(negotiate, credentials) => {
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
        let token = output
            .into_iter()
            .next()
            .map(|buffer| buffer.buffer)
            .unwrap_or_default();
        if token.is_empty() {
            Err(Error::new(
                ErrorKind::InvalidToken,
                "there is no token left to send",
            ))
        } else {
            Ok(token)
        }
    }
}

/// Returns the fallbacks, NTLM last. Active Directory looks `user@suffix` up as an enterprise name;
/// the KDCs of MIT and Heimdal know only `user` in the realm.
fn fallbacks_for(username: Username) -> Vec<(Username, &'static str)> {
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

fn ntlm(username: Username, password: &str) -> sspi::Result<SspiContext> {
    let mut ntlm = Box::new(sspi::Ntlm::with_config(NtlmConfig::new(
        WORKSTATION.to_owned(),
    )));
    let identity = identity(username, password);
    let acquired = ntlm
        .acquire_credentials_handle()
        .with_credential_use(CredentialUse::Outbound)
        .with_auth_data(&identity);
    let credentials = acquired.execute(ntlm.as_mut())?.credentials_handle;
    Ok(SspiContext::Ntlm(ntlm, credentials))
}

fn negotiate(username: Username, password: &str, packages: &str) -> sspi::Result<SspiContext> {
    let ntlm = Box::new(NtlmConfig::new(WORKSTATION.to_owned()));
    let config = NegotiateConfig::new(ntlm, Some(packages.to_owned()), WORKSTATION.to_owned());
    let mut negotiate = Box::new(Negotiate::new_client(config)?);
    let identity = Credentials::from(identity(username, password));
    let acquired = negotiate
        .acquire_credentials_handle()
        .with_credential_use(CredentialUse::Outbound)
        .with_auth_data(&identity);
    let credentials = acquired.execute(negotiate.as_mut())?.credentials_handle;
    Ok(SspiContext::Negotiate(negotiate, credentials))
}

/// Queries a KDC. Over TCP a length precedes each message. Over UDP there is none, but `sspi`
/// expects one before the answer.
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
        match TcpStream::connect_timeout(&address, KDC_TIMEOUT) {
            Ok(stream) => return exchange(stream, request),
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

fn exchange(mut stream: TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(KDC_TIMEOUT))?;
    stream.write_all(request)?;
    let deadline = Instant::now() + KDC_TIMEOUT;
    let mut length = [0; 4];
    read_all(&mut stream, &mut length, deadline)?;
    let announced = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if announced > MAX_KDC_ANSWER {
        let problem = format!(
            "it announces an answer of {announced} bytes, more than {MAX_KDC_ANSWER}: is it a KDC?"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut answer = length.to_vec();
    answer.resize(length.len() + announced, 0);
    read_all(&mut stream, answer.split_at_mut(length.len()).1, deadline)?;
    Ok(answer)
}

/// Fills `bytes` before the deadline, regardless of how small the received pieces are.
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
    socket.set_read_timeout(Some(KDC_TIMEOUT))?;
    socket.connect(address)?;
    socket.send(request)?;
    let mut answer = vec![0; MAX_KDC_DATAGRAM];
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

    /// Returns the parsed result of a KDC's answer to "asked".
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
    fn kdc_answer_in_pieces_is_read_completely() {
        let outcome = exchange_with(|mut stream| {
            for piece in [&[0, 0][..], &[0, 3, b'a'], b"bc"] {
                stream.write_all(piece).unwrap();
            }
        });
        assert_eq!(outcome.unwrap(), b"\0\0\0\x03abc");
    }

    #[test]
    fn oversized_kdc_answer_is_rejected() {
        let outcome = exchange_with(|mut stream| {
            stream.write_all(&(600_u32 << 20).to_be_bytes()).unwrap();
            // The write fails when the other end closes.
            while stream.write_all(&[0; 65_536]).is_ok() {}
        });
        let error = outcome.unwrap_err().to_string();
        assert_eq!(
            error,
            "it announces an answer of 629145600 bytes, more than 1048576: is it a KDC?"
        );
    }

    #[test]
    fn slow_kdc_exceeds_the_deadline() {
        let began = Instant::now();
        let outcome = exchange_with(|mut stream| {
            stream
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            stream.write_all(&1000_u32.to_be_bytes()).unwrap();
            while stream.write_all(&[0]).is_ok() && !matches!(stream.read(&mut [0]), Ok(0)) {}
        });
        assert!(outcome.is_err());
        assert!(began.elapsed() < KDC_TIMEOUT * 2, "{:?}", began.elapsed());
    }
}
