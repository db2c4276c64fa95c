//! The codes of diagnoses. They are stable: monitoring may compare them. The table in
//! docs/diagnostics.md lists them all.

use std::fmt;

use serde::{Serialize, Serializer};

/// The layer of a path, from the configuration file to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// The configuration file, and the files that it names.
    Configuration,
    /// The limits of this process and this machine.
    Process,
    /// Name resolution.
    Name,
    /// The TCP connection.
    Tcp,
    /// The tunnel through a proxy.
    Proxy,
    /// The TLS session.
    Tls,
    /// The HTTP request and its upgrade to a WebSocket.
    Http,
    /// The authentication of a role at its master, and of the master at the role.
    Authentication,
    /// The quality of the path that carries the link.
    Path,
    /// The tunnel to the server of a port.
    Port,
    /// The service behind a server.
    Service,
    /// The listening side of a master.
    Listen,
}

impl Layer {
    /// Returns the layer's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layer::Configuration => "configuration",
            Layer::Process => "process",
            Layer::Name => "name",
            Layer::Tcp => "tcp",
            Layer::Proxy => "proxy",
            Layer::Tls => "tls",
            Layer::Http => "http",
            Layer::Authentication => "authentication",
            Layer::Path => "path",
            Layer::Port => "port",
            Layer::Service => "service",
            Layer::Listen => "listen",
        }
    }
}

/// Defines [`DiagnosisCode`] with the name, the layer and the meaning of each code, so that a new
/// code is one line.
macro_rules! diagnosis_codes {
    ($($layer:ident { $(#[doc = $meaning:literal] $code:ident = $name:literal,)+ })+) => {
        /// The kind of a failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DiagnosisCode {
            $($(#[doc = $meaning] $code,)+)+
        }

        impl DiagnosisCode {
            /// All codes, in the order of their layers.
            pub const ALL: &'static [DiagnosisCode] = &[$($(DiagnosisCode::$code,)+)+];

            /// Returns the stable name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $($(DiagnosisCode::$code => $name,)+)+
                }
            }

            /// Returns the layer that failed.
            #[must_use]
            pub fn layer(self) -> Layer {
                match self {
                    $($(DiagnosisCode::$code => Layer::$layer,)+)+
                }
            }

            /// Returns the meaning as one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $($(DiagnosisCode::$code => $meaning.trim_ascii(),)+)+
                }
            }
        }
    };
}

diagnosis_codes! {
    Configuration {
        /// The configuration file is invalid.
        ConfigurationInvalid = "configuration_invalid",
        /// The configuration is valid and probably not intended.
        ConfigurationDoubtful = "configuration_doubtful",
        /// A certificate, key or authority file cannot be used.
        TlsFileUnusable = "tls_file_unusable",
        /// The system's certificate authorities cannot be read.
        TlsNoAuthorities = "tls_no_authorities",
        /// The headers file cannot be used.
        HeadersFileUnusable = "headers_file_unusable",
    }
    Process {
        /// This process or this machine has no free file descriptor.
        OutOfFiles = "out_of_files",
        /// The configured local address or interface cannot be used.
        BindFailed = "bind_failed",
        /// The congestion control algorithm cannot be set.
        CongestionControlUnavailable = "congestion_control_unavailable",
    }
    Name {
        /// The resolver does not know the name.
        NameUnknown = "name_unknown",
        /// The name exists and has no usable address.
        NameWithoutAddress = "name_without_address",
        /// The DNS server cannot be reached or fails.
        NameServerFailed = "name_server_failed",
        /// The name was not resolved in time.
        NameTimeout = "name_timeout",
        /// The look-up failed for another reason.
        NameFailed = "name_failed",
    }
    Tcp {
        /// The host refuses connections to the port.
        TcpRefused = "tcp_refused",
        /// The host does not answer.
        TcpTimeout = "tcp_timeout",
        /// There is no connection for another reason.
        TcpUnreachable = "tcp_unreachable",
    }
    Proxy {
        /// An environment variable names an unusable proxy.
        ProxyEnvironmentInvalid = "proxy_environment_invalid",
        /// The proxy requires authentication and no user is configured.
        ProxyAuthenticationRequired = "proxy_authentication_required",
        /// The proxy offers no supported authentication scheme.
        ProxyAuthenticationUnsupported = "proxy_authentication_unsupported",
        /// Every authentication scheme failed on this machine.
        ProxyAuthenticationFailed = "proxy_authentication_failed",
        /// The proxy rejects the user or the password.
        ProxyCredentialsRefused = "proxy_credentials_refused",
        /// The connection was closed in the middle of the authentication.
        ProxyAuthenticationInterrupted = "proxy_authentication_interrupted",
        /// The rules of the proxy forbid the destination.
        ProxyForbidden = "proxy_forbidden",
        /// The proxy redirects to another page.
        ProxyRedirected = "proxy_redirected",
        /// The proxy cannot reach the master.
        ProxyCannotReachMaster = "proxy_cannot_reach_master",
        /// The port belongs to a web server, or to a proxy without CONNECT.
        ProxyWithoutTunnels = "proxy_without_tunnels",
        /// The proxy limits the request rate, or has no room for another connection now.
        ProxyRateLimited = "proxy_rate_limited",
        /// The proxy refuses the tunnel for another reason.
        ProxyRefused = "proxy_refused",
        /// The port does not speak the protocol of the configured scheme.
        ProxyProtocolMismatch = "proxy_protocol_mismatch",
        /// The head of the proxy's response is too large.
        ProxyHeadTooLarge = "proxy_head_too_large",
        /// The proxy closed the connection without an answer.
        ProxyClosed = "proxy_closed",
        /// The proxy did not answer in time.
        ProxyTimeout = "proxy_timeout",
        /// The connection to the proxy failed for another reason.
        ProxyFailed = "proxy_failed",
    }
    Tls {
        /// No trusted authority signed the certificate.
        TlsUntrusted = "tls_untrusted",
        /// A known product intercepts TLS.
        TlsIntercepted = "tls_intercepted",
        /// The certificate is self-signed and not trusted.
        TlsSelfSigned = "tls_self_signed",
        /// The certificate is for other names.
        TlsWrongName = "tls_wrong_name",
        /// The certificate has expired.
        TlsExpired = "tls_expired",
        /// The certificate expires in a few days.
        TlsExpiresSoon = "tls_expires_soon",
        /// The certificate is not valid yet.
        TlsNotYetValid = "tls_not_yet_valid",
        /// The certificate belongs to an authority.
        TlsAuthorityCertificate = "tls_authority_certificate",
        /// The certificates of the chain are out of order or incomplete.
        TlsChainBroken = "tls_chain_broken",
        /// The certificate does not verify for another reason.
        TlsCertificateInvalid = "tls_certificate_invalid",
        /// The certificate matches no pin.
        TlsPinMismatch = "tls_pin_mismatch",
        /// The peer supports no TLS version above 1.1.
        TlsTooOld = "tls_too_old",
        /// The peer shares no TLS version or cipher.
        TlsNothingInCommon = "tls_nothing_in_common",
        /// The port speaks HTTP without TLS.
        TlsPlainHttp = "tls_plain_http",
        /// The port does not speak TLS.
        TlsNotSpoken = "tls_not_spoken",
        /// The connection was cut after the ClientHello.
        TlsCut = "tls_cut",
        /// The peer requires a client certificate, or rejects the one presented.
        TlsClientCertificate = "tls_client_certificate",
        /// The peer has no site with the requested name.
        TlsNoSuchSite = "tls_no_such_site",
        /// The handshake did not finish in time.
        TlsTimeout = "tls_timeout",
        /// The handshake failed for another reason.
        TlsFailed = "tls_failed",
    }
    Http {
        /// The port does not speak HTTP/1.1.
        HttpNotSpoken = "http_not_spoken",
        /// The port expects TLS.
        HttpExpectsTls = "http_expects_tls",
        /// The head of the response is too large.
        HttpHeadTooLarge = "http_head_too_large",
        /// The response 101 does not complete the WebSocket handshake.
        HttpHandshakeAltered = "http_handshake_altered",
        /// A gateway does not forward the upgrade.
        HttpUpgradeNotForwarded = "http_upgrade_not_forwarded",
        /// The response redirects within the same host.
        HttpRedirected = "http_redirected",
        /// The response redirects to another host, as a login page does.
        HttpLoginPage = "http_login_page",
        /// An HTML page was sent instead of the master's response.
        HttpPage = "http_page",
        /// A gateway requires authentication.
        HttpAuthenticationRequired = "http_authentication_required",
        /// A proxy on the path requires authentication.
        HttpProxyAuthenticationRequired = "http_proxy_authentication_required",
        /// A gateway refuses the request.
        HttpForbidden = "http_forbidden",
        /// There is no WebSocket at the path.
        HttpNotFound = "http_not_found",
        /// The method or the upgrade is not allowed at the path.
        HttpMethodNotAllowed = "http_method_not_allowed",
        /// The request is too large.
        HttpRequestTooLarge = "http_request_too_large",
        /// A gateway limits the request rate.
        HttpRateLimited = "http_rate_limited",
        /// The master, or a gateway in front of it, has no room for another connection now.
        HttpOverloaded = "http_overloaded",
        /// A gateway cannot reach the master.
        HttpMasterUnreachable = "http_master_unreachable",
        /// A gateway has an internal error.
        HttpGatewayError = "http_gateway_error",
        /// Another status was sent instead of 101.
        HttpNoWebSocket = "http_no_websocket",
        /// The connection was closed without an answer.
        HttpClosed = "http_closed",
        /// The response did not arrive in time.
        HttpTimeout = "http_timeout",
        /// The connection failed before a response.
        HttpFailed = "http_failed",
    }
    Authentication {
        /// The peer is not a rePort master.
        NotAMaster = "not_a_master",
        /// The master speaks another version of the protocol.
        VersionMismatch = "version_mismatch",
        /// The master cannot prove the master key or the credential.
        FalseMaster = "false_master",
        /// The master refuses the master key.
        MasterKeyRefused = "master_key_refused",
        /// The master does not know the credential, or refuses its signature.
        CredentialRefused = "credential_refused",
        /// A policy of the master's operator forbids the link.
        AccessDenied = "access_denied",
        /// The master throttles this address after wrong keys.
        MasterThrottles = "master_throttles",
        /// A newer link of this process is up.
        LinkSuperseded = "link_superseded",
        /// A limit of the master is reached.
        MasterLimit = "master_limit",
        /// The master refuses the link for another reason.
        LinkRefused = "link_refused",
        /// The master did not answer in time.
        AuthenticationTimeout = "authentication_timeout",
        /// The master closed the link during the authentication.
        AuthenticationClosed = "authentication_closed",
        /// The master broke the protocol.
        ProtocolViolated = "protocol_violated",
        /// The peer that answered 101 does not speak WebSocket.
        NotAWebSocket = "not_a_websocket",
        /// The connection failed during the authentication.
        AuthenticationFailed = "authentication_failed",
    }
    Path {
        /// The clocks of both ends differ.
        ClockWrong = "clock_wrong",
        /// The path delays small messages.
        SmallMessagesDelayed = "small_messages_delayed",
        /// A small message was not answered.
        SmallMessagesLost = "small_messages_lost",
        /// The path drops large packets.
        LargeMessagesLost = "large_messages_lost",
        /// The path drops idle connections.
        IdleLinksCut = "idle_links_cut",
        /// The path queues too much data.
        PathBuffers = "path_buffers",
        /// A measurement failed.
        MeasurementFailed = "measurement_failed",
    }
    Port {
        /// No link to a master is up.
        NoMaster = "no_master",
        /// No server with the port key is linked to the master.
        NoServer = "no_server",
        /// The port keys differ, or a message was altered.
        PortKeyMismatch = "port_key_mismatch",
        /// The methods of both ends differ.
        MethodMismatch = "method_mismatch",
        /// The server refuses the tunnel.
        TunnelRefused = "tunnel_refused",
        /// A policy of the master's operator forbids the tunnel.
        TunnelDenied = "tunnel_denied",
        /// The channel was closed before the server answered.
        ChannelClosed = "channel_closed",
        /// A newer attempt carries the tunnel.
        TunnelSuperseded = "tunnel_superseded",
        /// The attempt was cancelled.
        Cancelled = "cancelled",
    }
    Service {
        /// The host of the service does not resolve.
        ServiceNameFailed = "service_name_failed",
        /// The service refuses connections.
        ServiceRefused = "service_refused",
        /// The service does not answer.
        ServiceTimeout = "service_timeout",
        /// There is no connection to the service for another reason.
        ServiceUnreachable = "service_unreachable",
        /// The rules of the server do not allow the destination.
        DestinationDenied = "destination_denied",
        /// The service closed the stream at once.
        ServiceClosed = "service_closed",
        /// The stream to the service was lost.
        ServiceStreamLost = "service_stream_lost",
    }
    Listen {
        /// The host of the listen address does not resolve.
        ListenNameFailed = "listen_name_failed",
        /// Another program listens at the address.
        ListenAddressInUse = "listen_address_in_use",
        /// The process may not listen at the address.
        ListenNotPermitted = "listen_not_permitted",
        /// This machine does not have the address.
        ListenAddressMissing = "listen_address_missing",
        /// The listener cannot be identified as this master.
        ListenUnverified = "listen_unverified",
        /// The process cannot listen for another reason.
        ListenFailed = "listen_failed",
        /// The master does not answer /healthz with 200.
        HealthFailed = "health_failed",
        /// The master does not answer /healthz in time.
        HealthTimeout = "health_timeout",
    }
}

impl fmt::Display for DiagnosisCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Serialize for DiagnosisCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
