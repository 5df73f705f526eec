//! The checked-in code is what the `.proto` files give. No `protoc` is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use protox::prost::Message as _;

fn proto_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the proto folder is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            proto_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
}

/// Our contracts, and the parts of others' that we speak.
const FOLDERS: [&str; 3] = ["countersign", "envoy", "google"];

fn every_proto_file(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        proto_files(&root.join(folder), &mut files);
    }
    files.sort();
    files
}

fn generate() -> BTreeMap<String, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = every_proto_file(root);

    let mut compiler = protox::Compiler::new([root]).expect("the include path exists");
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files).expect("the protos compile");
    let with_comments = compiler.file_descriptor_set();

    let mut generated = BTreeMap::new();
    let mut bare = with_comments.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    generated.insert("descriptors.bin".to_owned(), bare.encode_to_vec());

    let out = tempfile::tempdir().expect("a temporary folder");
    tonic_prost_build::configure()
        // One signed update is sent on every stream: clones share it.
        .bytes(".countersign.trust.v1.Signed")
        // Values of headers are kept as they came.
        .bytes(".envoy.config.core.v3.HeaderValue")
        .out_dir(out.path())
        .compile_fds(with_comments)
        .expect("the code is generated");
    for entry in fs::read_dir(out.path()).expect("the output is readable") {
        let path = entry.expect("the entry is readable").path();
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .replace("r#", "");
        // Those types are in `prost-types`.
        if !name.starts_with("google.protobuf.") {
            generated.insert(name, fs::read(&path).expect("the file is readable"));
        }
    }
    generated
}

#[test]
fn the_checked_in_code_is_what_the_protos_give() {
    let gen_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    let generated = generate();
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::create_dir_all(&gen_folder).expect("the folder can be made");
        for (name, content) in &generated {
            fs::write(gen_folder.join(name), content).expect("the file can be written");
        }
    }
    for (name, content) in &generated {
        let kept = fs::read(gen_folder.join(name)).unwrap_or_default();
        assert!(
            kept == *content,
            "{name} is out of date: UPDATE_GENERATED=1 cargo test -p countersign-proto"
        );
    }
    let kept = fs::read_dir(&gen_folder).expect("the folder exists").count();
    assert_eq!(kept, generated.len(), "src/gen holds a file that no proto gives");
}

/// Every rpc, message, field and enum value has a comment: the contract is documented.
#[test]
fn every_element_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for file in every_proto_file(root) {
        let text = fs::read_to_string(&file).expect("the proto is readable");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            let declares = line.starts_with("rpc ")
                || line.starts_with("service ")
                || line.starts_with("message ")
                || line.starts_with("enum ")
                || line.starts_with("oneof ")
                || (line.ends_with(';')
                    && line.contains(" = ")
                    && !line.starts_with("syntax")
                    && !line.starts_with("option"));
            if declares && !(index > 0 && lines[index - 1].starts_with("//")) {
                missing.push(format!("{}:{}: {line}", file.display(), index + 1));
            }
        }
    }
    assert!(missing.is_empty(), "without a comment:\n{}", missing.join("\n"));
}
