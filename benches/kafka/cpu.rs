//! What processes spend.

/// CPU time that all threads of a process have used; `None` if it has ended.
pub fn cpu_seconds(process: u32) -> Option<f64> {
    /// What `/proc` counts in, on every Linux.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The command's name, in brackets, may hold anything. After it come state (3rd field) and, 14th and 15th, the times.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>();
    (fields[0] != "Z").then_some(ticks / TICKS_A_SECOND)
}
