//! The options, by the part of the configuration. A name is the path of the field with dashes.

use super::{FieldOption, OptionSet, OptionTable, ValueKind};

/// Makes a table of the rows `NAME FIELD KIND VALUE HELP`.
macro_rules! table {
    ($heading:literal: $($name:literal $field:literal $kind:ident $value_name:literal $help:literal)+) => {
        OptionTable {
            heading: $heading,
            options: &[$(FieldOption {
                name: $name,
                field: $field,
                kind: ValueKind::$kind,
                value_name: $value_name,
                help: $help,
            }),+],
        }
    };
}

/// The options of the service at both ends.
const SERVICE: OptionTable = table! {
    "Service":
    "mark" "ports.mark" Text "TEXT" "Name of the service in logs"
    "protocol" "ports.protocol" Text "PROTOCOL" "The traffic of the port: tcp, udp, both or socks5"
    "port-key-file" "ports.port_key" SecretFile "FILE" "File with the port key (default: the variable REPORT_PORT_KEY)"
    "port-key" "ports.port_key" Secret "KEY" "Port key; other users of this machine see it"
    "encrypt-method" "ports.encrypt_method" Text "METHOD" "plain, aes-128-cfb, aes-128-gcm or chacha20-poly1305"
    "compress-method" "ports.compress_method" Text "METHOD" "null, s2 or zstd"
    "udp-idle-timeout" "ports.udp_idle_timeout" Quantity "DURATION" "Time without datagrams after which a flow ends; 0 never"
    "max-delay" "ports.max_delay" Quantity "DURATION" "Longest time that a datagram waits"
    "max-flows" "ports.max_flows" Quantity "N" "Concurrent flows of datagrams"
    "stream-window" "ports.stream_window" Quantity "SIZE" "Window of one connection"
    "tunnel-window" "ports.tunnel_window" Quantity "SIZE" "Window of one tunnel"
};

/// The options of the service that only a client has.
const LISTENER: OptionTable = table! {
    "Listener":
    "socks-user-name" "ports.socks_user.name" Text "NAME" "User of the SOCKS5 proxy"
    "socks-user-password-file" "ports.socks_user.password" SecretFile "FILE" "File with the password of that user"
    "socks-user-password" "ports.socks_user.password" Secret "PASSWORD" "The password; other users of this machine see it"
    "socket-mode" "ports.socket_mode" Text "MODE" "Octal mode of a unix socket, such as 0660"
    "socket-owner" "ports.socket_owner" Text "OWNER" "Owner of a unix socket: USER, USER:GROUP or :GROUP"
};

/// The options of the service that only a server has.
const DESTINATION: OptionTable = table! {
    "Destination":
    "target-choice" "ports.target_choice" Text "CHOICE" "How to choose one of several --to: ordered or spread"
    "health-check-kind" "ports.health_check.kind" Text "KIND" "How to check them: tcp or http"
    "health-check-path" "ports.health_check.path" Text "PATH" "Path of the HTTP request"
    "health-check-interval" "ports.health_check.interval" Quantity "DURATION" "Time between two checks"
    "health-check-timeout" "ports.health_check.timeout" Quantity "DURATION" "Time limit of a check"
    "health-check-healthy-after" "ports.health_check.healthy_after" Quantity "N" "Successful checks after which a target is used again"
    "health-check-unhealthy-after" "ports.health_check.unhealthy_after" Quantity "N" "Failed checks after which a target is avoided"
    "allow" "ports.allow" List "HOST:PORTS" "Allowed destination of a SOCKS5 proxy; repeatable"
    "proxy-protocol" "ports.proxy_protocol" Text "VERSION" "Send the source of a connection to the service: v2"
};

/// The options of the links of a server or client.
const LINK: OptionTable = table! {
    "Links to the master":
    "master" "master" List "ADDRESS" "Address of a master, HOST:PORT or wss://HOST/PATH; repeatable"
    "proxy-file" "proxy" SecretFile "FILE" "File with the URL of a proxy"
    "proxy" "proxy" Secret "URL" "Proxy to dial through, or none; other users see it"
    "connect-to" "connect_to" Text "HOST:PORT" "Address to connect to in place of the master's"
    "bind-address" "bind_address" Text "ADDRESS" "Local IP address or interface to dial from"
    "host" "host" Text "HOST" "Host header of the request"
    "user-agent" "user_agent" Text "TEXT" "User-Agent header of the request"
    "headers" "headers" Headers "NAME: VALUE" "Additional header of the request; repeatable"
    "headers-file" "headers_file" Text "FILE" "File with additional headers"
    "tls-ca" "tls.ca" Text "FILE" "Trusted authorities (PEM)"
    "tls-system-ca" "tls.system_ca" On "" "Also trust the authorities of the system"
    "tls-pin-sha256" "tls.pin_sha256" List "HEX" "SHA-256 of the master's certificate; repeatable"
    "tls-client-cert" "tls.client_cert" Text "FILE" "Certificate to show (PEM)"
    "tls-client-key" "tls.client_key" Text "FILE" "Private key of that certificate (PEM)"
    "tls-server-name" "tls.server_name" Text "NAME" "Name to verify in the master's certificate"
    "tls-insecure-skip-verify" "tls.insecure_skip_verify" On "" "Accept any certificate (insecure)"
    "connect-timeout" "connect_timeout" Quantity "DURATION" "Time limit for reaching a master"
    "heartbeat" "heartbeat" Quantity "DURATION" "Keep-alive interval of an idle link"
    "congestion-control" "congestion_control" Text "NAME" "auto, system, or a name such as bbr"
    "resume-timeout" "resume_timeout" Quantity "DURATION" "How long connections wait without a link"
    "rotate-after" "rotate_after" Quantity "DURATION" "Age at which a link is replaced"
    "links-max" "links.max" Quantity "N" "Most links to a master"
    "links-min" "links.min" Quantity "N" "Links to keep at all times"
    "tcp-keepalive" "tcp_keepalive" Quantity "DURATION" "Idle time before TCP probes local connections"
    "windows-stream" "windows.stream" Quantity "SIZE" "Largest window of one connection"
    "windows-tunnel" "windows.tunnel" Quantity "SIZE" "Largest window of one tunnel"
};

/// The options of a client.
const CLIENT: OptionTable = table! {
    "Client":
    "credential-file" "credential" SecretFile "FILE" "File with the client's credential (default: the variable REPORT_CREDENTIAL)"
    "credential" "credential" Secret "SECRET" "Credential; other users of this machine see it"
    "master-choice" "master_choice" Text "CHOICE" "How to choose one of several masters: ordered or raced"
    "hold-timeout" "hold_timeout" Quantity "DURATION" "How long a new connection waits for a server"
    "limits-memory" "limits.memory" Quantity "SIZE" "Memory for queued data"
};

/// The options of a server.
const SERVER: OptionTable = table! {
    "Server":
    "master-key-file" "master_key" SecretFile "FILE" "File with the master's key (default: the variable REPORT_MASTER_KEY)"
    "master-key" "master_key" Secret "KEY" "Key of the master; other users of this machine see it"
    "credential-file" "credential" SecretFile "FILE" "File with the server's credential (default: the variable REPORT_CREDENTIAL)"
    "credential" "credential" Secret "SECRET" "Credential; other users of this machine see it"
    "limits-streams" "limits.streams" Quantity "N" "Concurrent connections"
    "limits-streams-per-port" "limits.streams_per_port" Quantity "N" "Concurrent connections to one service"
    "limits-streams-per-tunnel" "limits.streams_per_tunnel" Quantity "N" "Concurrent connections of one client"
    "limits-tunnels-per-port" "limits.tunnels_per_port" Quantity "N" "Concurrent clients"
    "limits-memory" "limits.memory" Quantity "SIZE" "Memory for queued data"
    "no-bench" "bench" Off "" "Refuse measurements with report bench"
};

/// The options of every role.
const PROCESS: OptionTable = table! {
    "Process":
    "log-level" "log_level" Text "LEVEL" "Minimum level of logs: error, warn, info, debug or trace"
    "log-format" "log_format" Text "FORMAT" "Format of logs: text or json"
    "admin-listen-at" "admin.listen_at" Text "ADDRESS" "Address for metrics and health checks"
    "grace-period" "grace_period" Quantity "DURATION" "How long connections may take to end"
};

/// The options of `report connect` beside an invitation.
pub(in crate::cli) enum ConnectFields {}

impl OptionSet for ConnectFields {
    const TABLES: &'static [&'static OptionTable] = &[&LINK, &CLIENT];
}

/// The options of `report forward`.
pub(in crate::cli) enum ForwardFields {}

impl OptionSet for ForwardFields {
    const TABLES: &'static [&'static OptionTable] =
        &[&SERVICE, &LISTENER, &LINK, &CLIENT, &PROCESS];
}

/// The options of `report expose`.
pub(in crate::cli) enum ExposeFields {}

impl OptionSet for ExposeFields {
    const TABLES: &'static [&'static OptionTable] =
        &[&SERVICE, &DESTINATION, &LINK, &SERVER, &PROCESS];
}
