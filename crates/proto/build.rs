//! Compiles `proto/` without an installed `protoc`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 8] = [
    "conclave/chat/v1/chat.proto",
    "conclave/admin/v1/admin.proto",
    "conclave/cluster/v1/cluster.proto",
    "conclave/dns/v1/dns.proto",
    "conclave/fault/v1/fault.proto",
    "conclave/log/v1/log.proto",
    "conclave/people/v1/people.proto",
    "conclave/raft/v1/raft.proto",
];

/// The one call whose frames are encoded once for all of its subscribers.
const ENCODED_ONCE: (&str, &str) = ("JoinChat", ".conclave.chat.v1.EncodedFrame");

/// The messages with passwords, hashed or not, which are never printed.
const SECRET: [&str; 8] = [
    ".conclave.people.v1.RegisterRequest",
    ".conclave.people.v1.AcceptInviteRequest",
    ".conclave.people.v1.LogInRequest",
    ".conclave.people.v1.ChangePasswordRequest",
    ".conclave.people.v1.CreateInviteResponse",
    ".conclave.log.v1.SetPassword",
    ".conclave.log.v1.Register",
    ".conclave.log.v1.CredentialRow",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut descriptors = protox::compile(FILES.map(|file| root.join(file)), [&root])?;

    // Reflection shows the API as it is written.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    // The generated code streams pre-encoded frames, which look the same on the wire.
    for method in descriptors.file.iter_mut().flat_map(|f| &mut f.service).flat_map(|s| &mut s.method) {
        if method.name() == ENCODED_ONCE.0 {
            method.output_type = Some(ENCODED_ONCE.1.to_owned());
        }
    }
    tonic_prost_build::configure()
        .bytes(".conclave.log.v1.Entry")
        .bytes(".conclave.raft.v1")
        .bytes(".conclave.chat.v1.JoinChatRequest")
        .bytes(".conclave.chat.v1.EventBatch")
        .bytes(".conclave.chat.v1.CaughtUp")
        .bytes(".conclave.chat.v1.Keepalive")
        .bytes(".conclave.chat.v1.RoomClosed")
        .skip_debug(SECRET)
        .extern_path(ENCODED_ONCE.1, "crate::frame::EncodedFrame")
        .compile_fds(descriptors)?;
    Ok(())
}
