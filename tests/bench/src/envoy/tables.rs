//! What was measured, as Markdown.

use std::fmt::{Result, Write as _};

use super::results::{Results, Served};

impl Results {
    /// A table for each load, and one for everything else that was measured.
    pub(super) fn tables(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _written = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> Result {
        writeln!(
            text,
            "{}; {} rounds; load average {} before, {} after.",
            self.processor, self.rounds, self.before.load_average, self.after.load_average
        )?;
        let loads = self.servers.first().map(|server| server.loads.as_slice());
        for under in loads.unwrap_or_default() {
            self.load(text, under.load)?;
        }
        self.streaming(text)?;
        self.questions(text)?;
        self.cold(text)?;
        self.memory(text)?;
        self.sizes(text)?;
        self.aims(text)
    }

    fn load(&self, text: &mut String, load: &str) -> Result {
        writeln!(
            text,
            "\n| {load} | calls/s | CPU for a call | of its core | waited | p50 | p99 | p50 added |"
        )?;
        writeln!(text, "| --- | --: | --: | --: | --: | --: | --: | --: |")?;
        for server in &self.servers {
            if let Some(under) = server.loads.iter().find(|under| under.load == load) {
                let row = row(server.what, &under.served);
                writeln!(text, "{row} {:.0} us |", under.added_p50_us)?;
            }
        }
        Ok(())
    }

    fn streaming(&self, text: &mut String) -> Result {
        writeln!(
            text,
            "\n| A stream of a million messages | messages/s | CPU for a message | of its core | waited | most resident |"
        )?;
        writeln!(text, "| --- | --: | --: | --: | --: | --: |")?;
        for server in &self.streaming {
            writeln!(
                text,
                "| {} | {:.0} | {:.2} us | {:.0} % | {:.0} % | {:.1} MiB |",
                server.what,
                server.messages_per_second,
                server.cpu_us_per_message,
                server.cpu_share * 100.0,
                server.waited_share * 100.0,
                server.resident_most.all_mib,
            )?;
        }
        Ok(())
    }

    fn questions(&self, text: &mut String) -> Result {
        writeln!(
            text,
            "\n| ext_authz, 4 x 16 | calls/s | CPU for a call | of its core | waited | p50 | p99 |"
        )?;
        writeln!(text, "| --- | --: | --: | --: | --: | --: | --: |")?;
        let asked = &self.ext_authz;
        writeln!(
            text,
            "{}",
            row("a tonic server that decides nothing", &asked.nothing_decided)
        )?;
        writeln!(text, "{}", row("countersign-sidecar", &asked.ours))
    }

    fn cold(&self, text: &mut String) -> Result {
        let cold = &self.cold;
        writeln!(
            text,
            "\n| Tokens never seen before | CPU for a token | the bare check by it |"
        )?;
        writeln!(text, "| --- | --: | --: |")?;
        for (what, used, ratio) in [
            ("the bare check of the signature", cold.raw_cpu_us, 1.0),
            (
                "Verify API, batches of 1,024",
                cold.batch_cpu_us,
                cold.batch_by_raw,
            ),
            ("calls through the proxy", cold.proxy_cpu_us, cold.proxy_by_raw),
            (
                "of that, what calls with a known token have not",
                cold.proxy_more_than_known_cpu_us,
                cold.proxy_addition_by_raw,
            ),
        ] {
            writeln!(text, "| {what} | {used:.1} us | {ratio:.2} |")?;
        }
        Ok(())
    }

    fn memory(&self, text: &mut String) -> Result {
        writeln!(
            text,
            "\n| Resident memory, MiB | idle | in no file | of files | most under load | in no file | of files |"
        )?;
        writeln!(text, "| --- | --: | --: | --: | --: | --: | --: |")?;
        let there = |server: &&super::results::Server| server.resident_idle.all_mib > 0.0;
        for server in self.servers.iter().filter(there) {
            let (idle, most) = (&server.resident_idle, &server.resident_most);
            writeln!(
                text,
                "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
                server.what,
                idle.all_mib,
                idle.anonymous_mib,
                idle.file_mib,
                most.all_mib,
                most.anonymous_mib,
                most.file_mib,
            )?;
        }
        Ok(())
    }

    fn sizes(&self, text: &mut String) -> Result {
        writeln!(text, "\n| The sidecar's program, by profile | MB | stripped |")?;
        writeln!(text, "| --- | --: | --: |")?;
        for binary in &self.binaries {
            writeln!(
                text,
                "| {}{} | {:.1} | {:.1} |",
                binary.profile,
                if binary.measured { " (measured)" } else { "" },
                binary.megabytes,
                binary.stripped_megabytes
            )?;
        }
        Ok(())
    }

    fn aims(&self, text: &mut String) -> Result {
        writeln!(text, "\n| Aimed at | | is | |")?;
        writeln!(text, "| --- | --: | --: | --- |")?;
        for aim in &self.aims {
            let held = if aim.held { "held" } else { "missed" };
            writeln!(
                text,
                "| {} | {} {} | {:.2} | {held} |",
                aim.what, aim.bound, aim.aim, aim.value
            )?;
        }
        Ok(())
    }
}

/// What every table of calls has.
fn row(what: &str, served: &Served) -> String {
    format!(
        "| {what} | {:.0} | {:.1} us | {:.0} % | {:.0} % | {:.0} us | {:.0} us |",
        served.calls_per_second,
        served.cpu_us_per_call,
        served.cpu_share * 100.0,
        served.waited_share * 100.0,
        served.p50_us,
        served.p99_us,
    )
}
