//! The rounds of NTLM and Negotiate, by the `sspi` crate. A round may ask a Kerberos server (KDC), so that it runs where it may block.
//!
//! The KDC is that of the user's realm in `/etc/krb5.conf` (or `KRB5_CONFIG`), or `SSPI_KDC_URL`. Without one, Negotiate carries NTLM.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use sspi::{
    AuthIdentity, BufferType, ClientRequestFlags, CredentialUse, Credentials, CredentialsBuffers, DataRepresentation, Error,
    ErrorKind, Negotiate, NegotiateConfig, SecurityBuffer, Sspi, SspiImpl, Username,
    generator::NetworkRequest,
    network_client::{NetworkClient, NetworkProtocol},
    ntlm::NtlmConfig,
};

use super::{address::ProxyUser, authentication::Scheme};

/// What we call this machine: nobody needs to know its name, and some proxies want one (curl says the same).
const WORKSTATION: &str = "WORKSTATION";

/// For each step of an exchange with a KDC.
const KDC_PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer of a KDC over UDP, in bytes.
const KDC_DATAGRAM: usize = 64 * 1024;

/// One side of such a conversation.
pub struct Tokens {
    context: Context,
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
    pub fn new(scheme: Scheme, user: &ProxyUser, proxy_host: &str) -> Result<Self, String> {
        let username = Username::parse(&user.name).map_err(|error| error.to_string())?;
        let identity = AuthIdentity { username, password: user.password().to_owned().into() };
        let context = match scheme {
            Scheme::Negotiate => negotiate(identity),
            _ => ntlm(&identity),
        };
        Ok(Tokens { context: context.map_err(|error| readable(&error))?, target: format!("HTTP/{proxy_host}") })
    }

    /// What to say, after the other side has said `heard`.
    ///
    /// # Errors
    /// Why there is nothing to say.
    pub async fn next(mut self, heard: Option<Vec<u8>>) -> Result<(Self, Vec<u8>), String> {
        let round = move || self.round(heard).map(|said| (self, said)).map_err(|error| readable(&error));
        tokio::task::spawn_blocking(round).await.map_err(|error| format!("its computation failed: {error}"))?
    }

    fn round(&mut self, heard: Option<Vec<u8>>) -> sspi::Result<Vec<u8>> {
        let mut input = vec![SecurityBuffer::new(heard.unwrap_or_default(), BufferType::Token)];
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
                SspiImpl::initialize_security_context_impl(ntlm.as_mut(), &mut builder)?.resolve_to_result()?;
            }
            Context::Negotiate(negotiate, credentials) => {
                let mut builder = negotiate
                    .initialize_security_context()
                    .with_credentials_handle(credentials)
                    .with_context_requirements(ClientRequestFlags::MUTUAL_AUTH | ClientRequestFlags::ALLOCATE_MEMORY)
                    .with_target_data_representation(DataRepresentation::Native)
                    .with_target_name(&self.target)
                    .with_input(&mut input)
                    .with_output(&mut output);
                SspiImpl::initialize_security_context_impl(negotiate.as_mut(), &mut builder)?.resolve_with_client(&Kdc)?;
            }
        }
        let said = output.into_iter().next().map(|buffer| buffer.buffer).unwrap_or_default();
        if said.is_empty() { Err(Error::new(ErrorKind::InvalidToken, "there is nothing left to say")) } else { Ok(said) }
    }
}

fn ntlm(identity: &AuthIdentity) -> sspi::Result<Context> {
    let mut ntlm = Box::new(sspi::Ntlm::with_config(NtlmConfig::new(WORKSTATION.to_owned())));
    let acquired = ntlm.acquire_credentials_handle().with_credential_use(CredentialUse::Outbound).with_auth_data(identity);
    let credentials = acquired.execute(ntlm.as_mut())?.credentials_handle;
    Ok(Context::Ntlm(ntlm, credentials))
}

fn negotiate(identity: AuthIdentity) -> sspi::Result<Context> {
    let ntlm = Box::new(NtlmConfig::new(WORKSTATION.to_owned()));
    let config = NegotiateConfig::new(ntlm, Some("kerberos,ntlm".to_owned()), WORKSTATION.to_owned());
    let mut negotiate = Box::new(Negotiate::new_client(config)?);
    let identity = Credentials::from(identity);
    let acquired = negotiate.acquire_credentials_handle().with_credential_use(CredentialUse::Outbound).with_auth_data(&identity);
    let credentials = acquired.execute(negotiate.as_mut())?.credentials_handle;
    Ok(Context::Negotiate(negotiate, credentials))
}

fn readable(error: &Error) -> String {
    if error.description.is_empty() { format!("{:?}", error.error_type) } else { error.description.clone() }
}

/// Asks a KDC: over TCP with a length before each message, over UDP without.
struct Kdc;

impl NetworkClient for Kdc {
    fn send(&self, request: &NetworkRequest) -> sspi::Result<Vec<u8>> {
        let (host, port) = (request.url.host_str().unwrap_or_default(), request.url.port().unwrap_or(88));
        let answer = match request.protocol {
            NetworkProtocol::Tcp => over_tcp(host, port, &request.data),
            NetworkProtocol::Udp => over_udp(host, port, &request.data),
            NetworkProtocol::Http | NetworkProtocol::Https => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "proxies of KDCs are not supported"))
            }
        };
        let failed =
            |error| Error::new(ErrorKind::NoAuthenticatingAuthority, format!("no answer from the KDC {host}:{port}: {error}"));
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
    stream.set_read_timeout(Some(KDC_PATIENCE))?;
    stream.set_write_timeout(Some(KDC_PATIENCE))?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let announced = u32::from_be_bytes(length);
    let mut answer = length.to_vec();
    stream.take(u64::from(announced)).read_to_end(&mut answer)?;
    Ok(answer)
}

fn over_udp(host: &str, port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let address = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(KDC_PATIENCE))?;
    socket.connect(address)?;
    // The length before it belongs to TCP.
    socket.send(request.get(4..).unwrap_or_default())?;
    let mut answer = vec![0; KDC_DATAGRAM];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    let mut framed = u32::try_from(length).unwrap_or_default().to_be_bytes().to_vec();
    framed.append(&mut answer);
    Ok(framed)
}
