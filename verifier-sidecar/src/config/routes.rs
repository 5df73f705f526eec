//! Routes: which calls an entry leads, and whether any are left for it.

use http::uri::Authority;

use super::Checker;
use crate::routes::{Calls, InvalidPaths, Paths};

impl Checker {
    /// The calls that the entry `key` leads: to `host`, and with paths that are read by `parse`.
    pub(super) fn calls(
        &mut self,
        key: &str,
        host: Option<&str>,
        path: Option<&str>,
        parse: fn(&str) -> Result<Paths, InvalidPaths>,
    ) -> Option<Calls> {
        let is_host = |host: &str| host.parse::<Authority>().is_ok() && !host.contains('@');
        if !host.is_none_or(is_host) {
            self.complaints
                .push(&format!("{key}.host"), "is no host, nor host and port");
        }
        let paths = path.map_or(Ok(Paths::All), parse);
        let paths = self.complaints.accept(&format!("{key}.path"), paths);
        Some(Calls {
            host: host.map(str::to_owned),
            paths: paths?,
        })
    }

    /// The first route that leads a call is taken, so one after another that leads all its calls leads none.
    pub(super) fn check_reached(&mut self, key: &str, calls: &Calls, earlier: &[&Calls]) {
        if let Some(earlier) = earlier.iter().find(|earlier| earlier.hide(calls)) {
            self.complaints.push(
                key,
                format_args!("leads no call: `{earlier}` comes before `{calls}`"),
            );
        }
    }
}
