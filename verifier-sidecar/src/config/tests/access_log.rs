//! The access log.

use super::*;
use crate::access_log::AccessLogTarget;

fn chosen(section: &str) -> Option<AccessLogConfig> {
    parse(&format!("{LEAST}{section}"))
        .expect("it makes sense")
        .access_log
}

#[test]
fn there_is_an_access_log_where_it_is_asked_for() {
    assert_eq!(chosen(""), None);
    let stdout = AccessLogConfig {
        target: AccessLogTarget::Stdout,
        sample: 0.0,
    };
    assert_eq!(chosen("[access_log]\npath = \"-\""), Some(stdout.clone()));
    for (written, sample) in [("0.01", 0.01), ("1", 1.0), ("1.0", 1.0), ("0", 0.0)] {
        let section = format!("[access_log]\npath = \"-\"\nsample = {written}");
        let expected = AccessLogConfig {
            sample,
            ..stdout.clone()
        };
        assert_eq!(chosen(&section), Some(expected));
    }
}

/// A path in the file is relative to the file.
#[test]
fn its_file_is_beside_the_configuration() {
    let (folder, file) = folder();
    let text = format!("{LEAST}[access_log]\npath = \"access.log\"");
    let config = Config::parse(&file, &text).expect("it makes sense");
    let target = config.access_log.expect("it is asked for").target;
    assert_eq!(target, AccessLogTarget::File(folder.path().join("access.log")));
}

/// C01, C03: what makes no sense.
#[test]
fn a_part_is_from_nothing_to_everything() {
    for wrong in ["-0.1", "1.01", "nan", "inf", "50"] {
        let told = complaints_about(&format!("[access_log]\npath = \"-\"\nsample = {wrong}"));
        assert!(
            told.contains("`access_log.sample`: is not between 0 and 1"),
            "{told}"
        );
    }
    let told = complaints_about("[access_log]\nsample = 0.5");
    assert!(told.contains("missing field `path`"), "{told}");
    let told = complaints_about("[access_log]\npath = \"-\"\nheaders = true");
    assert!(told.contains("unknown field `headers`"), "{told}");
}
