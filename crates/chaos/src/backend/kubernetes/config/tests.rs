use super::*;

const START: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts:
  - {name: there, context: {cluster: far, user: me}}
  - {name: here, context: {cluster: near, user: me, namespace: talk}}
clusters:
  - {name: far, cluster: {server: 'https://far:6443'}}
";

fn parse(rest: &str) -> Result<Config, ConfigError> {
    Config::parse(&format!("{START}{rest}"), Path::new("/nowhere"))
}

#[test]
fn token_and_authority_are_read_from_the_kubeconfig() {
    let config = parse(
        "  - {name: near, cluster: {server: 'https://near:6443/', certificate-authority-data: Q0E=}}\n\
         users: [{name: me, user: {token: abc}}]",
    );
    let config = config.unwrap();
    assert_eq!(config.server, "https://near:6443");
    assert_eq!(config.authority.as_deref(), Some(&b"CA"[..]));
    assert_eq!(config.identity, Identity::Token("abc".to_owned()));
    assert_eq!(config.namespace, "talk");
    assert!(!format!("{config:?}").contains("abc"), "a secret is shown");
}

#[test]
fn a_client_certificate_is_read_from_the_kubeconfig() {
    let config = parse(
        "  - {name: near, cluster: {server: 'https://near', certificate-authority-data: Q0E=}}\n\
         users: [{name: me, user: {client-certificate-data: Q0g=, client-key-data: S0U=}}]",
    );
    let wanted = Identity::Certificate { chain: b"CH".to_vec(), key: b"KE".to_vec() };
    assert_eq!(config.unwrap().identity, wanted);
}

#[test]
fn paths_are_relative_to_the_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ca.pem"), "CA").unwrap();
    let text = format!(
        "{START}  - {{name: near, cluster: {{server: 'https://near', certificate-authority: ca.pem}}}}\n\
         users: [{{name: me, user: {{tokenFile: token}}}}]"
    );
    let path = dir.path().join("config");
    fs::write(&path, text).unwrap();
    let config = Config::from_file(&path).unwrap();
    assert_eq!(config.authority.as_deref(), Some(&b"CA"[..]));
    assert_eq!(config.identity, Identity::TokenFile(dir.path().join("token")));
}

#[test]
fn unsupported_and_missing_entries_are_named() {
    let near = "  - {name: near, cluster: {server: 'https://near', certificate-authority-data: Q0E=}}\n";
    let error = |rest: &str| parse(rest).unwrap_err().to_string();
    assert!(error("").contains("cluster \"near\""), "{}", error(""));
    assert!(error(near).contains("user \"me\""));
    let exec = format!("{near}users: [{{name: me, user: {{exec: {{command: x, args: [y]}}}}}}]");
    assert!(error(&exec).contains("exec is not supported") && error(&exec).contains("kubectl proxy"));
    let insecure = "  - {name: near, cluster: {server: 'https://near', insecure-skip-tls-verify: true}}\nusers: [{name: me}]";
    assert!(error(insecure).contains("insecure-skip-tls-verify"));
    let no_authority = "  - {name: near, cluster: {server: 'https://near'}}\nusers: [{name: me}]";
    assert!(error(no_authority).contains("certificate-authority"));
    let base64 = "  - {name: near, cluster: {server: 'https://near', certificate-authority-data: '!'}}\nusers: [{name: me}]";
    assert_eq!(parse(base64), Err(ConfigError::Base64("certificate-authority-data")));
    let half = format!("{near}users: [{{name: me, user: {{client-key-data: S0U=}}}}]");
    assert!(error(&half).contains("certificate of \"client-key\""), "{}", error(&half));
    assert!(matches!(Config::parse("[", Path::new("")), Err(ConfigError::Unreadable(_))));
}

#[test]
fn a_proxy_needs_no_authority_and_no_credentials() {
    let config = parse("  - {name: near, cluster: {server: 'http://127.0.0.1:8001'}}\nusers: [{name: me}]");
    let config = config.unwrap();
    assert_eq!((config.authority, config.identity), (None, Identity::Nobody));
}

#[test]
fn in_a_pod_the_service_account_is_used() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("namespace", "conclave\n"), ("ca.crt", "CA"), ("token", "abc")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let config = Config::of_pod("fd00::1", "443", dir.path()).unwrap();
    assert_eq!(config.server, "https://[fd00::1]:443");
    assert_eq!(config.namespace, "conclave");
    assert_eq!(config.identity, Identity::TokenFile(dir.path().join("token")));
    fs::remove_file(dir.path().join("ca.crt")).unwrap();
    let error = Config::of_pod("10.96.0.1", "443", dir.path()).unwrap_err();
    assert!(error.to_string().contains("ca.crt"), "{error}");
}
