//! Recognises products that intercept TLS, by the names of the authorities that they sign with.

/// Part of an issuer's name in lower case, and the product that uses it. These are the default
/// names; an operator can choose another one.
const INSPECTORS: [(&str, &str); 45] = [
    ("zscaler", "Zscaler"),
    ("fortinet", "Fortinet FortiGate"),
    ("fortigate", "Fortinet FortiGate"),
    ("palo alto", "Palo Alto Networks"),
    ("blue coat", "Blue Coat (Symantec) ProxySG"),
    ("bluecoat", "Blue Coat (Symantec) ProxySG"),
    ("proxysg", "Blue Coat (Symantec) ProxySG"),
    ("symantec", "Symantec Web Security"),
    ("netskope", "Netskope"),
    ("goskope", "Netskope"),
    ("cisco umbrella", "Cisco Umbrella"),
    ("opendns", "Cisco Umbrella"),
    ("ironport", "Cisco Secure Web Appliance"),
    ("sophos", "Sophos"),
    ("mcafee", "McAfee (Trellix, Skyhigh) Web Gateway"),
    ("trellix", "McAfee (Trellix, Skyhigh) Web Gateway"),
    ("skyhigh", "McAfee (Trellix, Skyhigh) Web Gateway"),
    ("check point", "Check Point"),
    ("barracuda", "Barracuda"),
    ("sonicwall", "SonicWall"),
    ("watchguard", "WatchGuard"),
    ("forcepoint", "Forcepoint"),
    ("websense", "Forcepoint"),
    ("iboss", "iboss"),
    ("cato networks", "Cato Networks"),
    ("menlo security", "Menlo Security"),
    ("cloudflare managed", "Cloudflare Gateway"),
    ("cloudflare for teams", "Cloudflare Gateway"),
    ("trend micro", "Trend Micro"),
    ("sangfor", "Sangfor"),
    ("smoothwall", "Smoothwall"),
    ("securly", "Securly"),
    ("lightspeed", "Lightspeed Filter"),
    ("kaspersky", "Kaspersky"),
    ("eset", "ESET"),
    ("avast", "Avast"),
    ("avg technologies", "AVG"),
    ("bitdefender", "Bitdefender"),
    ("adguard", "AdGuard"),
    ("mitmproxy", "mitmproxy"),
    ("squid", "Squid (ssl_bump)"),
    ("portswigger", "Burp Suite"),
    ("fiddler", "Fiddler"),
    ("charles proxy", "Charles"),
    ("proxyman", "Proxyman"),
];

/// Returns the product that intercepts TLS with this issuer's name.
#[must_use]
pub fn inspector(issuer: &str) -> Option<&'static str> {
    let issuer = issuer.to_lowercase();
    INSPECTORS
        .iter()
        .find(|(part, _)| has_word_prefix(&issuer, part))
        .map(|(_, name)| *name)
}

/// Returns whether `part` begins at a word boundary in `text`. "eset" does not match in "reset";
/// "do_not_trust_fiddlerroot" is Fiddler's own spelling.
fn has_word_prefix(text: &str, part: &str) -> bool {
    text.match_indices(part).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interception_products_are_recognised_by_issuer() {
        for (issuer, name) in [
            (
                "C=US, ST=California, O=Zscaler Inc., CN=Zscaler Intermediate Root CA (zscaler.net)",
                "Zscaler",
            ),
            (
                "C=US, O=Fortinet, OU=Certificate Authority, CN=FGVM00TM20000000",
                "Fortinet FortiGate",
            ),
            ("CN=DO_NOT_TRUST_FiddlerRoot, O=DO_NOT_TRUST", "Fiddler"),
            ("CN=mitmproxy, O=mitmproxy", "mitmproxy"),
            (
                "C=PortSwigger, O=PortSwigger, CN=PortSwigger CA",
                "Burp Suite",
            ),
            (
                "CN=Charles Proxy CA (1 Jan 2026, host), OU=https://charlesproxy.com/ssl",
                "Charles",
            ),
            (
                "CN=Kaspersky Anti-Virus Personal Root Certificate, O=AO Kaspersky Lab",
                "Kaspersky",
            ),
            ("CN=ESET SSL Filter CA, O=ESET, spol. s r. o.", "ESET"),
            ("O=Cisco, CN=Cisco Umbrella Root CA", "Cisco Umbrella"),
        ] {
            assert_eq!(inspector(issuer), Some(name), "{issuer}");
        }
    }

    #[test]
    fn public_authorities_are_not_recognised_as_interception() {
        for issuer in [
            "C=US, O=Let's Encrypt, CN=R11",
            "C=US, O=DigiCert Inc, CN=DigiCert TLS RSA SHA256 2020 CA1",
            "C=US, O=Google Trust Services, CN=WE1",
            "C=GB, O=Sectigo Limited, CN=Sectigo Public Server Authentication CA DV R36",
            "C=US, O=Cloudflare, Inc., CN=Cloudflare Inc ECC CA-3",
            "CN=Reset CA",
        ] {
            assert_eq!(inspector(issuer), None, "{issuer}");
        }
    }
}
