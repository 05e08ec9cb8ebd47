//! The `log` crate's back end: a line on the console with the time, the CPU and the level.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{console, cpu_local, time};

/// Relaxed wherever it is used: it orders nothing else.
static WARNINGS: AtomicU64 = AtomicU64::new(0);

/// How many warnings and errors there were since the start. One that the level of the log hides is none.
pub fn warnings() -> u64 {
    WARNINGS.load(Relaxed)
}

struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        WARNINGS.fetch_add(u64::from(record.level() <= Level::Warn), Relaxed);
        let uptime = time::uptime();
        let (seconds, micros) = (uptime.as_secs(), uptime.subsec_micros());
        let cpu = cpu_local::current().id.0;
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        console::write(format_args!("[{seconds:4}.{micros:06} cpu {cpu:<3}] {level}{}\n", record.args()));
    }

    fn flush(&self) {}
}

/// Makes the console the log's back end, at the level the command line names (`loglevel=`), else `info`.
pub(crate) fn initialise(level: Option<&str>) {
    let parsed = level.map(str::parse::<LevelFilter>);
    log::set_max_level(match parsed {
        Some(Ok(level)) => level,
        _ => LevelFilter::Info,
    });
    // Fails only when called twice, and then the first call's back end is this one.
    let _ = log::set_logger(&Console);
    if let (Some(level), Some(Err(_))) = (level, parsed) {
        log::warn!("loglevel={level} is no level: use off, error, warn, info, debug or trace; info is assumed");
    }
}
