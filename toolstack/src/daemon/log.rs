// SPDX-License-Identifier: GPL-3.0-only
//! What the daemon says: lines on stderr. To the journal each is given with its priority, as sd-daemon(3) has it, and
//! without a time, which the journal has; `journalctl -p warning -u microslice` then shows what went wrong.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// From here on what is said is seen.
pub fn start() {
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    if to_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) {
        lines.event_format(Journal).init();
    } else {
        lines.init();
    }
}

/// Whether stderr is the journal's: JOURNAL_STREAM has its device and inode, and may be a parent's with another stderr.
fn to_journal(stream: Option<&str>) -> bool {
    let stderr = std::fs::metadata("/proc/self/fd/2").map(|data| format!("{}:{}", data.dev(), data.ino()));
    stream.is_some_and(|stream| stderr.is_ok_and(|stderr| stderr == stream))
}

struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(line, "<{priority}>")?;
        context.field_format().format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn the_journal_gets_priorities_and_no_times() {
        let mut file = tempfile::tempfile().unwrap();
        let lines = tracing_subscriber::fmt().with_ansi(false).event_format(Journal);
        let lines = lines.with_writer(std::sync::Mutex::new(file.try_clone().unwrap())).finish();
        tracing::subscriber::with_default(lines, || {
            tracing::warn!("domain '{}' (id 3): no kernel", "web");
            tracing::info!("stopped");
            tracing::error!("gone");
        });
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "<4>domain 'web' (id 3): no kernel\n<6>stopped\n<3>gone\n");
    }

    #[test]
    fn a_journal_that_is_not_ours_is_not_taken_for_it() {
        assert!(!to_journal(None) && !to_journal(Some("1:2")));
        let data = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(to_journal(Some(&format!("{}:{}", data.dev(), data.ino()))));
    }
}
