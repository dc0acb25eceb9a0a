//! TSIG: MACs of messages between name servers, RFC 8945 with HMAC-SHA-256. Pure.

use hickory_proto::op::{Header, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::{TSIG, TsigAlgorithm, TsigError as Code, make_tsig_record, message_tbs};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder};
use hickory_proto::{ProtoError, serialize::binary::DecodeError};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Largest difference between the clocks of the two sides, seconds.
const FUDGE: u16 = 300;
const MAC_BYTES: u16 = 32;

/// The MAC of a message.
pub(super) type Mac = [u8; MAC_BYTES as usize];

/// A key that both sides share.
#[derive(Clone)]
pub(crate) struct Key {
    name: Name,
    secret: Vec<u8>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

/// Why an answer is rejected, or the error that the other side reported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TsigError {
    #[error("the answer cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
    #[error("the answer cannot be encoded again: {0}")]
    Encode(#[from] ProtoError),
    #[error("the answer ({1}) is not signed with the TSIG key {0}")]
    Unsigned(Name, ResponseCode),
    #[error("the primary does not know the TSIG key {0} (BADKEY); use the name that the primary has")]
    UnknownKey(Name),
    #[error("the primary has another secret for the TSIG key {0} (BADSIG); copy the key again")]
    OtherKey(Name),
    #[error("the clocks are more than {FUDGE} s apart (BADTIME): set them")]
    Clocks,
    #[error("the other side refuses the signature with the error {0}")]
    Refused(u16),
    #[error("the answer's signature is wrong; the answer was forged or changed on its way")]
    Forged,
}

impl Key {
    pub(crate) fn new(mut name: Name, secret: Vec<u8>) -> Self {
        name.set_fqdn(true);
        Self { name, secret }
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.secret).expect("HMAC takes keys of every length")
    }

    /// Signs a message. Returns the encoded message and its MAC, which the answer's MAC covers. `now` is in seconds
    /// since 1970.
    ///
    /// # Errors
    /// If the message is too long.
    pub(crate) fn sign(&self, mut message: Message, now: u64) -> Result<(Vec<u8>, Mac), ProtoError> {
        let id = message.metadata.id;
        let tsig = TSIG::new(TsigAlgorithm::HmacSha256, now, FUDGE, Vec::new(), id, None, Vec::new());
        let mut mac = self.mac();
        mac.update(&message_tbs(&message, &tsig, &self.name)?);
        let mac: Mac = mac.finalize().into_bytes().into();
        message.signature = Some(Box::new(make_tsig_record(self.name.clone(), tsig.set_mac(mac.to_vec()))));
        Ok((message.to_vec()?, mac))
    }

    /// Decodes the answer to the message with this MAC, and checks the answer's own MAC. `now` is in seconds since
    /// 1970.
    ///
    /// # Errors
    /// Why the answer is rejected.
    pub(crate) fn verify(&self, answer: &[u8], request_mac: &Mac, now: u64) -> Result<Message, TsigError> {
        let message = Message::from_vec(answer)?;
        let (signed, signature) = split(answer)?;
        let unsigned = || TsigError::Unsigned(self.name.clone(), message.metadata.response_code);
        let signature = signature.ok_or_else(unsigned)?;
        let RData::TSIG(tsig) = &signature.data else { return Err(unsigned()) };
        match tsig.error {
            None => {}
            // These errors are not signed: a side without the right key cannot sign them. They only explain the
            // failure.
            Some(Code::BadSig) => return Err(TsigError::OtherKey(self.name.clone())),
            Some(Code::BadKey) => return Err(TsigError::UnknownKey(self.name.clone())),
            Some(Code::BadTime) => return Err(TsigError::Clocks),
            Some(error) => return Err(TsigError::Refused(error.into())),
        }
        let mut algorithm = tsig.algorithm.to_name();
        algorithm.set_fqdn(false);
        if signature.name != self.name || algorithm != TsigAlgorithm::HmacSha256.to_name() {
            return Err(unsigned());
        }
        let mut variables = Vec::new();
        tsig.emit_tsig_for_mac(&mut BinEncoder::new(&mut variables), &self.name)?;
        let mut mac = self.mac();
        mac.update(&MAC_BYTES.to_be_bytes());
        mac.update(request_mac);
        mac.update(&signed);
        mac.update(&variables);
        mac.verify_slice(&tsig.mac).map_err(|_| TsigError::Forged)?;
        if tsig.time.abs_diff(now) > tsig.fudge.into() {
            return Err(TsigError::Clocks);
        }
        Ok(message)
    }
}

/// Splits a message into its signed part and the TSIG record, which is the last record.
fn split(message: &[u8]) -> Result<(Vec<u8>, Option<Record>), TsigError> {
    let mut decoder = BinDecoder::new(message);
    let Header { mut metadata, mut counts } = Header::read(&mut decoder)?;
    let body = decoder.index();
    for _ in 0..counts.queries {
        Query::read(&mut decoder)?;
    }
    let others = [counts.answers, counts.authorities, counts.additionals.saturating_sub(1)];
    for _ in 0..others.into_iter().map(u32::from).sum() {
        Record::read(&mut decoder)?;
    }
    let end = decoder.index();
    if counts.additionals == 0 {
        return Ok((message.to_vec(), None));
    }
    let signature = Record::read(&mut decoder)?;
    if let RData::TSIG(tsig) = &signature.data {
        metadata.id = tsig.oid;
    }
    counts.additionals -= 1;
    let mut signed = Vec::with_capacity(end);
    Header { metadata, counts }.emit(&mut BinEncoder::new(&mut signed))?;
    signed.extend_from_slice(&message[body..end]);
    Ok((signed, Some(signature)))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::RecordType;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key(secret: &[u8]) -> Key {
        Key::new(Name::from_ascii("Export.Key").unwrap(), secret.to_vec())
    }

    /// The other side's answer to a message with this MAC.
    fn answer(key: &Key, request_mac: &[u8], error: Option<Code>, time: u64) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Response, OpCode::Update);
        message.add_query(Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::SOA));
        let tsig = TSIG::new(TsigAlgorithm::HmacSha256, time, FUDGE, Vec::new(), 7, error, Vec::new());
        let mut mac = key.mac();
        mac.update(&[&[0, 32], request_mac].concat());
        mac.update(&message_tbs(&message, &tsig, &key.name).unwrap());
        let tsig = tsig.set_mac(mac.finalize().into_bytes().to_vec());
        message.signature = Some(Box::new(make_tsig_record(key.name.clone(), tsig)));
        message.to_vec().unwrap()
    }

    #[test]
    fn the_mac_of_a_message_is_the_one_that_rfc_8945_defines() {
        // The MAC is that of `kdig +bufsize=0 -y hmac-sha256:…`'s algorithm, worked out by hand from RFC 8945 4.3:
        // header, question, key name, class, time to live, algorithm, time, fudge, error, length of the rest.
        let mut message = Message::new(7, MessageType::Query, OpCode::Update);
        message.add_query(Query::query(Name::from_ascii("a.").unwrap(), RecordType::SOA));
        let (bytes, mac) = key(b"secret").sign(message, NOW).unwrap();
        let mut expected = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
        expected.update(b"\0\x07\x28\0\0\x01\0\0\0\0\0\0\x01a\0\0\x06\0\x01");
        expected.update(b"\x06export\x03key\0\0\xff\0\0\0\0\x0bhmac-sha256\0");
        expected.update(b"\0\0\x6b\x49\xd2\0\x01\x2c\0\0\0\0");
        assert_eq!(mac, *expected.finalize().into_bytes());
        assert_eq!(bytes[10..12], [0, 1], "one additional record");
        let end = [&mac[..], b"\0\x07\0\0\0\0"].concat();
        assert!(bytes.ends_with(&end), "the MAC, the id, no error, nothing else");
    }

    #[test]
    fn only_an_answer_signed_with_the_key_for_this_message_is_accepted() {
        let ours = key(b"secret");
        let good = answer(&ours, &[1; 32], None, NOW);
        assert_eq!(ours.verify(&good, &[1; 32], NOW + 300).unwrap().metadata.id, 7);
        // A forwarder may change the message id.
        let mut forwarded = good.clone();
        forwarded[1] = 8;
        assert!(ours.verify(&forwarded, &[1; 32], NOW).is_ok());

        assert!(matches!(ours.verify(&good, &[2; 32], NOW), Err(TsigError::Forged)));
        assert!(matches!(key(b"other").verify(&good, &[1; 32], NOW), Err(TsigError::Forged)));
        assert!(matches!(ours.verify(&good, &[1; 32], NOW + 301), Err(TsigError::Clocks)));
        let mut changed = good.clone();
        changed[3] = 5;
        assert!(matches!(ours.verify(&changed, &[1; 32], NOW), Err(TsigError::Forged)));
        for length in 0..good.len() {
            assert!(ours.verify(&good[..length], &[1; 32], NOW).is_err());
        }
        let unsigned = Message::new(7, MessageType::Response, OpCode::Update).to_vec().unwrap();
        assert!(matches!(ours.verify(&unsigned, &[1; 32], NOW), Err(TsigError::Unsigned(..))));
        for (code, part) in [
            (Code::BadKey, "BADKEY"),
            (Code::BadSig, "BADSIG"),
            (Code::BadTime, "BADTIME"),
            (Code::BadTrunc, "22"),
        ] {
            let why = ours
                .verify(&answer(&ours, &[1; 32], Some(code), NOW), &[1; 32], NOW)
                .unwrap_err()
                .to_string();
            assert!(why.contains(part), "{why}");
        }
    }
}
