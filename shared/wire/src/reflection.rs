//! gRPC reflection: what a server tells of itself to whoever has no `.proto` files, as `grpcurl`.
//!
//! It tells of the services that this server serves, of every message that they need, and of the messages that stand in the
//! details of refusals. Other services of ours are neither listed nor described.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::service::Routes;
use tonic_reflection::server::Builder;
pub use tonic_reflection::server::Error;

/// What every server serves beside its own services.
const COMMON: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The package of `ErrorInfo`, `RetryInfo`, `BadRequest` and `Status`.
const DETAILS: &str = "google.rpc";

/// `routes`, which serve `services` and health, with reflection: v1, and v1alpha for older tools.
///
/// # Errors
/// [`Error`] when the descriptors built in cannot be read.
pub fn add(routes: Routes, services: &[&str]) -> Result<Routes, Error> {
    let served: Vec<&str> = services.iter().copied().chain(COMMON).collect();
    let files = files(&served)?;
    // It lists what stands in these files.
    let builder = || {
        Builder::configure()
            .register_file_descriptor_set(files.clone())
            .include_reflection_service(false)
    };
    Ok(routes
        .add_service(builder().build_v1()?)
        .add_service(builder().build_v1alpha()?))
}

/// The files that describe `services` and the details of refusals, with all that they import.
fn files(services: &[&str]) -> Result<FileDescriptorSet, Error> {
    let known = known()?;
    let is_root = |file: &&FileDescriptorProto| {
        let package = file.package();
        let mut names = file
            .service
            .iter()
            .map(|service| format!("{package}.{}", service.name()));
        package == DETAILS || names.any(|name| services.contains(&name.as_str()))
    };
    let mut open: Vec<&FileDescriptorProto> = known.values().filter(is_root).collect();
    let mut taken = BTreeSet::new();
    let mut set = FileDescriptorSet::default();
    while let Some(file) = open.pop() {
        if taken.insert(file.name()) {
            open.extend(file.dependency.iter().filter_map(|import| known.get(import)));
            set.file.push(file.clone());
        }
    }
    Ok(set)
}

/// Every file that is built in, by its name. What two of them define is taken from the first.
fn known() -> Result<BTreeMap<String, FileDescriptorProto>, Error> {
    let mut known: BTreeMap<String, FileDescriptorProto> = BTreeMap::new();
    for set in [
        countersign_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        tonic_types::pb::FILE_DESCRIPTOR_SET,
    ] {
        for file in FileDescriptorSet::decode(set)?.file {
            if !known.values().any(|other| define_the_same(other, &file)) {
                known.insert(file.name().to_owned(), file);
            }
        }
    }
    Ok(known)
}

/// Whether a message is in both: our copy of Envoy's API brings `google.rpc.Status` under its usual name, and so does the library
/// for details under another.
fn define_the_same(one: &FileDescriptorProto, other: &FileDescriptorProto) -> bool {
    let names = |file: &FileDescriptorProto| -> Vec<String> {
        let messages = file.message_type.iter();
        messages.map(|message| message.name().to_owned()).collect()
    };
    let (ours, theirs) = (names(one), names(other));
    one.package() == other.package() && ours.iter().any(|name| theirs.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(files: &FileDescriptorSet) -> BTreeSet<String> {
        let of_file = |file: &FileDescriptorProto| -> Vec<String> {
            let package = file.package();
            let names = file.service.iter().map(|service| service.name());
            names.map(|name| format!("{package}.{name}")).collect()
        };
        files.file.iter().flat_map(of_file).collect()
    }

    /// Whichever service a server serves: its descriptors hold all that they import, and no other service.
    #[test]
    fn every_service_is_described_with_its_messages_and_without_the_others() {
        let ours = FileDescriptorSet::decode(countersign_proto::FILE_DESCRIPTOR_SET).expect("decodes");
        let ours = services(&ours);
        assert!(ours.len() > 6, "{ours:?}");
        for service in ours.iter().map(String::as_str).chain(COMMON) {
            let files = files(&[service]).expect("reads");
            assert_eq!(services(&files), BTreeSet::from([service.to_owned()]));
            let names: BTreeSet<&str> = files.file.iter().map(FileDescriptorProto::name).collect();
            assert_eq!(names.len(), files.file.len(), "{service}: each file once");
            for file in &files.file {
                for import in &file.dependency {
                    assert!(names.contains(import.as_str()), "{service}: {import} is missing");
                }
            }
            let messages = files.file.iter().flat_map(|file| {
                let names = file.message_type.iter().map(|message| message.name());
                names.map(|name| format!("{}.{name}", file.package()))
            });
            let messages: Vec<String> = messages.collect();
            let unique: BTreeSet<&String> = messages.iter().collect();
            assert_eq!(unique.len(), messages.len(), "{service}: each message once");
            assert!(messages.contains(&"google.rpc.ErrorInfo".to_owned()), "{service}");
        }
    }
}
