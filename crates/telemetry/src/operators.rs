//! Who may make the calls of operators: those that drain nodes, spread clients, inject faults or describe the API.

use std::net::IpAddr;

use conclave_net::{Peer, is_loopback};
use conclave_proto::admin_token::AdminToken;
use conclave_proto::status::Failure;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Code, Extensions, Request, Status};

/// The code of a refused call.
pub const NOT_OPERATOR: &str = "not_operator";

/// Decides who is an operator: whoever has the admin token; without a token, whoever calls from this machine.
#[derive(Clone, Debug, Default)]
pub struct Operators {
    token: Option<AdminToken>,
}

impl Operators {
    /// Operators with this token, or those of this machine.
    #[must_use]
    pub fn new(token: Option<AdminToken>) -> Self {
        Self { token }
    }

    /// Refuses a call that is not from an operator.
    ///
    /// # Errors
    /// The failure says which flag is missing, and on which side.
    pub fn check(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<(), Failure> {
        self.decide(metadata, extensions.get::<Peer>().map(|peer| peer.address.ip()))
    }

    fn decide(&self, metadata: &MetadataMap, from: Option<IpAddr>) -> Result<(), Failure> {
        let (status, message) = match &self.token {
            Some(token) if token.is_in(metadata) => return Ok(()),
            Some(_) => (
                Code::Unauthenticated,
                "this call is for operators and needs the cluster's admin token, as `authorization: Bearer cnva_…`",
            ),
            None if from.is_some_and(is_loopback) => return Ok(()),
            None => (
                Code::PermissionDenied,
                "this call is for operators, and without an admin token they call from the server's own machine; start \
                 the server with --admin-token-file to call from elsewhere",
            ),
        };
        Err(Failure::Denied { code: NOT_OPERATOR, status, message: message.to_owned() })
    }
}

impl Interceptor for Operators {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.check(request.metadata(), request.extensions())?;
        Ok(request)
    }
}

/// What is wrong with fault injection at this address, if anything: beyond loopback, whoever reaches a port for
/// operators without a token would have to be refused, so faults could not be injected from there.
#[must_use]
pub fn faults_without_token(address: IpAddr, token: Option<&AdminToken>) -> Option<String> {
    (token.is_none() && !is_loopback(address)).then(|| {
        format!(
            "--allow-faults at {address} lets whoever reaches it break this process: give --admin-token-file, or listen \
             on a loopback address"
        )
    })
}

#[cfg(test)]
mod tests {
    use conclave_proto::admin_token::{PREFIX, WithAdminToken};

    use super::*;

    fn token(digit: &str) -> AdminToken {
        AdminToken::parse(format!("{PREFIX}{}", digit.repeat(64)).as_bytes()).unwrap()
    }

    fn call(token: Option<AdminToken>) -> MetadataMap {
        WithAdminToken(token).call(Request::new(())).unwrap().metadata().clone()
    }

    #[test]
    fn a_server_with_a_token_refuses_calls_without_it() {
        let operators = Operators::new(Some(token("a")));
        assert!(operators.decide(&call(Some(token("a"))), None).is_ok());
        for wrong in [None, Some(token("b"))] {
            let failure = operators.decide(&call(wrong), Some(IpAddr::from([127, 0, 0, 1]))).unwrap_err();
            assert_eq!(failure.code(), NOT_OPERATOR);
            assert_eq!(Status::from(failure).code(), Code::Unauthenticated);
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(local.parse().unwrap()), "{local}");
            assert_eq!(faults_without_token(local.parse().unwrap(), None), None);
        }
        for remote in ["10.0.0.1", "0.0.0.0", "::", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(!is_loopback(remote.parse().unwrap()), "{remote}");
            assert!(faults_without_token(remote.parse().unwrap(), None).is_some(), "{remote}");
            assert!(faults_without_token(remote.parse().unwrap(), Some(&token("a"))).is_none(), "{remote}");
        }
    }
    #[test]
    fn without_a_token_operators_are_those_of_this_machine() {
        let operators = Operators::default();
        assert!(operators.decide(&call(None), Some(IpAddr::from([127, 0, 0, 1]))).is_ok());
        // Nobody knows where a call without an address comes from.
        for stranger in [None, Some(IpAddr::from([10, 0, 0, 1]))] {
            let failure = operators.decide(&call(Some(token("a"))), stranger).unwrap_err();
            assert!(failure.to_string().contains("--admin-token-file"), "{failure}");
            assert_eq!(Status::from(failure).code(), Code::PermissionDenied);
        }
    }
}
