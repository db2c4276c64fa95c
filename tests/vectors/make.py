#!/usr/bin/env python3
"""Writes the vectors of PROTOCOL 1, 4, 7, 8, 9.2, 9.11 and 11 beside this file.

This is a second implementation. It uses the `cryptography` package (45 or later) and no code of rePort. The tests compare rePort with
these vectors. Run it again only when the protocol changes.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import pathlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

HERE = pathlib.Path(__file__).parent


def hkdf(salt, secret, info, length):
    return HKDF(hashes.SHA256(), length, salt or None, info).derive(secret)


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def pattern(seed, length):
    """Pseudo-random bytes that are the same on every machine."""
    out = b""
    while len(out) < length:
        out += hashlib.sha256(f"rePort vector {seed} {len(out)}".encode()).digest()
    return out[:length]


# 1. Keys


def root(password, salt):
    return Argon2id(salt=salt, length=32, iterations=2, lanes=1, memory_cost=19456).derive(password.encode())


def port_keys(key):
    r = root(key, b"rePort port key 1")
    return hkdf(b"", r, b"rePort key id 1", 16), hkdf(b"", r, b"rePort tunnel psk 1", 32)


def link_key(key):
    r = bytes(32) if key is None else root(key, b"rePort master key 1")
    return hkdf(b"", r, b"rePort link key 1", 32)


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Credential:
    def __init__(self, secret):
        self.secret = "rc1_" + base64url(secret)
        self.signing = Ed25519PrivateKey.from_private_bytes(hkdf(b"", secret, b"rePort credential signature 1", 32))
        self.public_key = self.signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.welcome_key = hkdf(b"", secret, b"rePort credential welcome 1", 32)
        self.id = hashlib.sha256(b"rePort credential id 1" + self.public_key).digest()[:16]
        self.verifier = "rv1_" + base64url(self.public_key + self.welcome_key)


def credentials():
    secrets = [bytes(32), b"\xfb" * 32, pattern("credential", 32)]
    return [
        {
            "secret": credential.secret,
            "public_key": credential.public_key.hex(),
            "welcome_key": credential.welcome_key.hex(),
            "id": credential.id.hex(),
            "verifier": credential.verifier,
        }
        for credential in map(Credential, secrets)
    ]


def keys():
    ports = []
    for key in ["T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4", "lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE", "远程桌面", "a"]:
        key_id, psk = port_keys(key)
        ports.append({"port_key": key, "id": key_id.hex(), "psk": psk.hex()})
    links = [{"master_key": key, "link_key": link_key(key).hex()} for key in ["rePortserver", "", None]]
    return {"port_keys": ports, "link_keys": links, "credentials": credentials()}


# 4. Link authentication


def challenge(version, nonce):
    return nonce + hashlib.sha256(b"rePort link" + bytes([version]) + nonce).digest()[:8]


def link():
    challenges = []
    for version in [0, 1, 2, 255]:
        nonce = pattern(f"nonce {version}", 24)
        challenges.append({"version": version, "nonce": nonce.hex(), "challenge": challenge(version, nonce).hex()})
    proofs = []
    for name, role, advice in [("server", "server", {}), ("client", "client", {}), ("advised", "client", {"retry_within_ms": 7500})]:
        key = pattern(f"link key {name}", 32)
        sent = challenge(1, pattern(f"nonce {name}", 24))
        nonce = pattern(f"role nonce {name}", 32)
        claims = json.dumps({"version": 1, "role": role, "nonce": nonce.hex(), "epoch": 7, "agent": "vector/1"})
        terms = json.dumps({"version": 1, "heartbeat_seconds": 20, "max_channels": 1000, "max_ports": 100} | advice)
        proofs.append(
            {
                "link_key": key.hex(),
                "challenge": sent.hex(),
                "claims": claims,
                "hello": mac(key, b"rePort hello", sent, claims.encode()).hex(),
                "nonce": nonce.hex(),
                "terms": terms,
                "welcome": mac(key, b"rePort welcome", sent, nonce, terms.encode()).hex(),
            }
        )
    return {"challenges": challenges, "proofs": proofs, "signed": signed()}


def signed():
    cases = []
    for role in ["server", "client"]:
        credential = Credential(pattern(f"credential {role}", 32))
        sent = challenge(1, pattern(f"nonce signed {role}", 24))
        nonce = pattern(f"role nonce signed {role}", 32)
        fields = {"version": 1, "role": role, "nonce": nonce.hex(), "credential": credential.id.hex(), "epoch": 7, "agent": "vector/1"}
        claims = json.dumps(fields)
        terms = json.dumps({"version": 1, "heartbeat_seconds": 20, "max_channels": 1000, "max_ports": 100})
        binding = b""
        signed = b"rePort signed hello" + sent + len(binding).to_bytes(2, "big") + binding + claims.encode()
        cases.append(
            {
                "secret": credential.secret,
                "challenge": sent.hex(),
                "claims": claims,
                "signature": credential.signing.sign(signed).hex(),
                "nonce": nonce.hex(),
                "terms": terms,
                "welcome": mac(credential.welcome_key, b"rePort welcome", sent, nonce, terms.encode()).hex(),
            }
        )
    return cases


# 7. The tunnel handshake: Noise_NNpsk0_25519_ChaChaPoly_SHA256, according to the Noise specification, revision 34


class Symmetric:
    def __init__(self, prologue):
        self.h = hashlib.sha256(b"Noise_NNpsk0_25519_ChaChaPoly_SHA256").digest()
        self.ck = self.h
        self.mix_hash(prologue)

    def expand(self, secret, count):
        temp, outputs, last = mac(self.ck, secret), [], b""
        for number in range(1, count + 1):
            last = mac(temp, last, bytes([number]))
            outputs.append(last)
        return outputs

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, secret):
        self.ck, self.k = self.expand(secret, 2)
        self.n = 0

    def mix_key_and_hash(self, secret):
        self.ck, temp, self.k = self.expand(secret, 3)
        self.mix_hash(temp)
        self.n = 0

    def encrypt(self, payload):
        nonce = bytes(4) + self.n.to_bytes(8, "little")
        sealed = ChaCha20Poly1305(self.k).encrypt(nonce, payload, self.h)
        self.n += 1
        self.mix_hash(sealed)
        return sealed


def public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def handshake():
    cases = []
    for number, (offer, answer) in enumerate(
        [(b"", b""), (b'{"version":1,"encrypt":"aes-128-cfb","compress":"zstd"}', b'{"accept":{}}'), (b"x" * 300, b"y" * 4000)]
    ):
        key_id, psk = pattern(f"key id {number}", 16), pattern(f"psk {number}", 32)
        e1, e2 = pattern(f"initiator {number}", 32), pattern(f"responder {number}", 32)
        state = Symmetric(b"rePort tunnel 1" + key_id)
        state.mix_key_and_hash(psk)
        state.mix_hash(public(e1))
        state.mix_key(public(e1))
        first = public(e1) + state.encrypt(offer)
        state.mix_hash(public(e2))
        state.mix_key(public(e2))
        state.mix_key(X25519PrivateKey.from_private_bytes(e1).exchange(X25519PublicKey.from_public_bytes(public(e2))))
        second = public(e2) + state.encrypt(answer)
        from_initiator, from_responder = state.expand(b"", 2)
        secret = hkdf(state.h, from_initiator + from_responder, b"rePort tunnel secret 1", 32)
        # The attachment of this handshake resumes the tunnel that the same handshake made. The rule is the same for any other tunnel.
        resumed = sealer("aes-128-gcm", state.h, from_initiator + secret)(0, b"resumed")
        cases.append(
            {
                "id": key_id.hex(),
                "psk": psk.hex(),
                "initiator_ephemeral": e1.hex(),
                "responder_ephemeral": e2.hex(),
                "offer": offer.hex(),
                "first": first.hex(),
                "answer": answer.hex(),
                "second": second.hex(),
                "hash": state.h.hex(),
                "from_initiator": from_initiator.hex(),
                "from_responder": from_responder.hex(),
                "tunnel_secret": secret.hex(),
                "resumed": resumed.hex(),
            }
        )
    return {"handshakes": cases}


# 8. Sealing


def sealer(method, h, k):
    def material(length):
        return hkdf(h, k, b"rePort seal " + method.encode(), length)

    def nonce(number):
        return bytes(4) + number.to_bytes(8, "big")

    if method == "plain":
        gcm = AESGCM(material(16))
        return lambda number, clear: clear + gcm.encrypt(nonce(number), b"", clear)
    if method == "aes-128-cfb":
        keys = material(64)
        running = Cipher(algorithms.AES(keys[:16]), CFB(keys[16:32])).encryptor()

        def seal(number, clear):
            hidden = running.update(clear)
            return hidden + mac(keys[32:], number.to_bytes(8, "big"), hidden)[:16]

        return seal
    aead = AESGCM(material(16)) if method == "aes-128-gcm" else ChaCha20Poly1305(material(32))
    return lambda number, clear: aead.encrypt(nonce(number), clear, None)


def sealed():
    methods = []
    for method in ["plain", "aes-128-cfb", "aes-128-gcm", "chacha20-poly1305"]:
        h, k = pattern(f"hash {method}", 32), pattern(f"key {method}", 32)
        seal, messages = sealer(method, h, k), []
        for number, length in enumerate([16, 0, 1, 15, 17, 31, 64, 5, 200, 3]):
            clear = pattern(f"message {number}", length)
            messages.append({"clear": clear.hex(), "sealed": seal(number, clear).hex()})
        methods.append({"method": method, "hash": h.hex(), "key": k.hex(), "messages": messages})
    return {"directions": methods}


# 9.2. The address of the service in the details of an OPEN or OPEN_FLOW
# 9.11. Origins: the details of an OPEN, and the PROXY protocol header (version 2, section 2.2) that the service receives


def proxy_header(source, destination):
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    if source is None:
        return signature + bytes([0x20, 0x00]) + (0).to_bytes(2, "big")
    ends = [(ipaddress.ip_address(host), port) for host, port in (source, destination)]
    family = 0x11 if ends[0][0].version == 4 else 0x21
    body = b"".join(address.packed for address, _ in ends) + b"".join(port.to_bytes(2, "big") for _, port in ends)
    return signature + bytes([0x21, family]) + len(body).to_bytes(2, "big") + body


def details():
    def text(end):
        host, port = end
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def origin(details, source=None, destination=None, is_written_so=False):
        ends = {"source": source and text(source), "destination": destination and text(destination)}
        return {"details": details, **ends, "header": proxy_header(source, destination).hex(), "is_written_so": is_written_so}

    def written(source, destination):
        fields = {"source": text(source), "destination": text(destination)}
        return origin(json.dumps(fields, separators=(",", ":")), source, destination, True)

    origins = [
        written(("203.0.113.9", 40312), ("192.0.2.7", 13389)),
        written(("127.0.0.9", 1), ("127.0.0.1", 65535)),
        written(("2001:db8::9", 40312), ("2001:db8:0:7::1", 122)),
        written(("::1", 40312), ("::1", 122)),
        origin(
            '{"later": [1], "destination": "192.0.2.7:5", "source": "203.0.113.9:4"}', ("203.0.113.9", 4), ("192.0.2.7", 5)
        ),
        origin(
            '{"source": "[::ffff:203.0.113.9]:4", "destination": "[::ffff:192.0.2.7]:5"}', ("203.0.113.9", 4), ("192.0.2.7", 5)
        ),
        origin(""),
        origin("{}"),
        origin('{"later": {"source": "203.0.113.9:4"}}'),
    ]
    malformed = [
        ("the source alone", '{"source": "203.0.113.9:4"}'),
        ("the destination alone", '{"destination": "203.0.113.9:4"}'),
        ("two families", '{"source": "203.0.113.9:4", "destination": "[2001:db8::1]:5"}'),
        ("no port", '{"source": "203.0.113.9", "destination": "192.0.2.7:5"}'),
        ("a port that is none", '{"source": "203.0.113.9:65536", "destination": "192.0.2.7:5"}'),
        ("a name", '{"source": "localhost:4", "destination": "192.0.2.7:5"}'),
        ("IPv6 without brackets", '{"source": "2001:db8::9:4", "destination": "[2001:db8::1]:5"}'),
        ("a number", '{"source": 4, "destination": "192.0.2.7:5"}'),
        ("a line more", '{"source": "203.0.113.9:4\\r\\n", "destination": "192.0.2.7:5"}'),
        ("the same field twice", '{"source": "203.0.113.9:4", "source": "203.0.113.8:4", "destination": "192.0.2.7:5"}'),
        ("no object", '"203.0.113.9:4"'),
        ("a list", '["203.0.113.9:4", "192.0.2.7:5"]'),
        ("no JSON", '{"source": "203.0.113.9:4", "destination": "192.0.2.7:5"'),
    ]
    return {
        "origins": origins,
        "malformed": [{"what": what, "details": text} for what, text in malformed],
        **services(),
    }


def services():
    """The server of a port with a range of 11 addresses reads `offset`, that of a SOCKS5 port `target`."""

    def service(details, offset=0, target=None, is_written_so=False):
        named = target and {"host": target[0], "port": target[1]}
        return {"details": details, "offset": offset, "target": named, "is_written_so": is_written_so}

    def written(offset=0, target=None):
        fields = {"offset": offset} if offset else {}
        if target:
            fields["target"] = {"host": target[0], "port": target[1]}
        details = json.dumps(fields, separators=(",", ":")) if fields else ""
        return service(details, offset, target, True)

    longest = "a" * 255
    good = [
        written(),
        written(offset=1),
        written(offset=10),
        written(target=("nas.lan", 22)),
        written(target=("2001:db8::1", 65535)),
        written(target=(longest, 1)),
        service("{}"),
        service('{"later": {"offset": 3}}'),
        service('{"offset": 0}'),
        service('{"later": 1, "target": {"port": 22, "host": "NAS.lan", "later": 2}}', target=("NAS.lan", 22)),
    ]
    malformed = [
        ("an address beyond the range", '{"offset": 11}', "refused"),
        ("the last number", '{"offset": 65535}', "refused"),
        ("a number beyond all ranges", '{"offset": 65536}', "protocol"),
        ("a negative number", '{"offset": -1}', "protocol"),
        ("a fraction", '{"offset": 1.5}', "protocol"),
        ("a text", '{"offset": "1"}', "protocol"),
        ("the number twice", '{"offset": 1, "offset": 2}', "protocol"),
        ("no destination", "{}", "protocol"),
        ("nothing", "", "protocol"),
        ("a destination of null", '{"target": null}', "protocol"),
        ("a destination as text", '{"target": "nas.lan:22"}', "protocol"),
        ("a destination as a list", '[{"host": "nas.lan", "port": 22}]', "protocol"),
        ("no host", '{"target": {"port": 22}}', "protocol"),
        ("an empty host", '{"target": {"host": "", "port": 22}}', "protocol"),
        ("a host with a space", '{"target": {"host": "nas lan", "port": 22}}', "protocol"),
        ("a host with a zero byte", '{"target": {"host": "nas\\u0000.lan", "port": 22}}', "protocol"),
        ("a host of 256 bytes", json.dumps({"target": {"host": longest + "a", "port": 22}}), "protocol"),
        ("no port", '{"target": {"host": "nas.lan"}}', "protocol"),
        ("port 0", '{"target": {"host": "nas.lan", "port": 0}}', "protocol"),
        ("a port that is none", '{"target": {"host": "nas.lan", "port": 65536}}', "protocol"),
        ("the destination twice", '{"target": {"host": "a", "port": 1}, "target": {"host": "b", "port": 1}}', "protocol"),
    ]
    keys = ("what", "details", "code")
    return {"services": good, "malformed_services": [dict(zip(keys, values)) for values in malformed]}


# 11. Compression: decoded chunks (a sender may choose chunk boundaries and compression freely)


def chunk(kind, raw, body):
    header = bytes([kind]) + (len(raw) - 1).to_bytes(2, "big")
    if kind not in (0, 5):
        header += (len(body) - 1).to_bytes(2, "big")
    return header + body


def zstd_block(kind, size, data, last=False):
    return (int(last) | kind << 1 | size << 3).to_bytes(3, "little") + data


# Length 24; a literal of 8; a copy of 8 from 8 back; 8 more from the same offset, which Snappy does not have (offset 0).
S2_REPEAT = bytes([24, 7 << 2]) + b"abcdefgh" + bytes([(8 - 4) << 2 | 1, 8, (8 - 4) << 2 | 1, 0])


def chunks():
    text = b"abcdefgh" * 8
    snappy = bytes([64]) + bytes([7 << 2]) + b"abcdefgh" + bytes([(55 << 2) | 2, 8, 0])
    magic = bytes.fromhex("28b52ffd")
    # Single segment, one byte of content size; a run-length block that is the last.
    whole = magic + bytes([0x20, 100]) + zstd_block(1, 100, b"z", last=True)
    window_17, window_18 = bytes([0x00, 7 << 3]), bytes([0x00, 8 << 3])
    first = magic + window_17 + zstd_block(1, 1000, b"a")
    a, b, z = b"a" * 1000, b"b" * 500, b"z" * 100
    good = [
        ("null", "bytes as they are", b"bytes as they are", b"bytes as they are"),
        ("s2", "stored", chunk(0, text, text), text),
        ("s2", "a Snappy block", chunk(1, text, snappy), text),
        ("s2", "a block with a repeated offset, which only S2 has", chunk(1, text[:8] + text[:8] + text[:8], S2_REPEAT), text[:24]),
        ("s2", "stored, compressed, stored", chunk(0, b"x", b"x") + chunk(1, text, snappy) + chunk(0, b"yz", b"yz"), b"x" + text + b"yz"),
        ("zstd", "stored", chunk(0, text, text), text),
        ("zstd", "a whole frame", chunk(2, z, whole), z),
        ("zstd", "a running frame", chunk(3, a, first) + chunk(4, b, zstd_block(1, 500, b"b")), a + b),
        (
            "zstd",
            "a running frame goes on after a stored chunk",
            chunk(3, a, first) + chunk(0, b"x", b"x") + chunk(4, b, zstd_block(1, 500, b"b")),
            a + b"x" + b,
        ),
        ("zstd", "a running frame begins anew", chunk(3, a, first) + chunk(3, a, first), a + a),
        ("zstd", "a running frame is let go, and another begins", chunk(3, a, first) + chunk(5, b"x", b"x") + chunk(3, a, first), a + b"x" + a),
    ]
    bad = [
        ("s2", "a kind of the other method", chunk(2, z, whole)),
        ("zstd", "a kind of the other method", chunk(1, text, snappy)),
        ("zstd", "a kind that nobody knows", chunk(6, z, whole)),
        ("s2", "a body longer than its contents", bytes([1, 0, 3, 0, 4]) + bytes(5)),
        ("s2", "a block that declares another length", chunk(1, text[:63], snappy)),
        ("s2", "a block that declares 4 GiB", chunk(1, text, bytes([0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0x00]))),
        ("s2", "a copy from before the beginning", chunk(1, text, bytes([64, (63 << 2) | 2, 8, 0]))),
        ("zstd", "a frame of another length", chunk(2, z[:99], whole)),
        ("zstd", "a frame that is cut short", chunk(2, z, whole[:-1])),
        ("zstd", "two frames in one chunk", chunk(2, z + z, whole + whole)),
        ("zstd", "a running frame with a larger window", chunk(3, a, magic + window_18 + zstd_block(1, 1000, b"a"))),
        ("zstd", "a running chunk without a beginning", chunk(4, b, zstd_block(1, 500, b"b"))),
        ("zstd", "a running chunk after a whole frame", chunk(3, a, first) + chunk(2, z, whole) + chunk(4, b, zstd_block(1, 500, b"b"))),
        ("zstd", "a running chunk after the end of it", chunk(3, a, first) + chunk(5, b"x", b"x") + chunk(4, b, zstd_block(1, 500, b"b"))),
        ("zstd", "a running frame that ends", chunk(3, a, magic + window_17 + zstd_block(1, 1000, b"a", last=True))),
        ("zstd", "a running chunk with more than it declares", chunk(3, a[:999], first)),
        ("zstd", "a running chunk with less than it declares", chunk(3, a + b"a", first)),
    ]
    cut = [
        ("s2", "in a header", bytes([0, 0])),
        ("s2", "in a stored chunk", chunk(0, text, text)[:-1]),
        ("zstd", "in a body", chunk(2, z, whole)[:-1]),
    ]
    return {
        "good": [{"method": m, "what": w, "wire": wire.hex(), "raw": raw.hex()} for m, w, wire, raw in good],
        "corrupt": [{"method": m, "what": w, "wire": wire.hex()} for m, w, wire in bad],
        "truncated": [{"method": m, "what": w, "wire": wire.hex()} for m, w, wire in cut],
    }


if __name__ == "__main__":
    files = {"keys": keys, "link": link, "handshake": handshake, "sealed": sealed, "details": details, "chunks": chunks}
    for name, make in files.items():
        text = json.dumps(make(), ensure_ascii=False, indent=1)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")
