//! Partition counts that the file itself gives: rows that meet in one task come from topics with equal counts.

use std::collections::BTreeMap;

use millstream_operators::config::Fields;
use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics, Span};

use super::StepNode;

/// A count with the place where it is given.
type Count = (u32, Span);

/// Reports steps whose inputs come from repartition topics with different `partitions`. How many partitions a source's topic has
/// is only known to the brokers.
pub(super) fn check(steps: &[StepNode], placed: &BTreeMap<&str, &Fields<'_>>, diagnostics: &Diagnostics) {
    // The counts that are known at the output of each step; steps come after their inputs.
    let mut counts: BTreeMap<&str, Option<Count>> = BTreeMap::new();
    for step in steps {
        let mut met: Option<Count> = None;
        for input in &step.inputs {
            let Some(Some(count)) = counts.get(input.node.as_str()) else { continue };
            match &met {
                Some(other) if other.0 != count.0 => {
                    let place = placed.get(step.name.as_str()).map_or(0..0, |fields| fields.key_span("from"));
                    diagnostics.push(
                        Diagnostic::error(
                            Code::PartitionCounts,
                            place,
                            format!("inputs of `{}` have {} and {} partitions", step.name, other.0, count.0),
                        )
                        .also(other.1.clone(), "one count")
                        .also(count.1.clone(), "the other count")
                        .help("give both the same `partitions`"),
                    );
                }
                _ => met = Some(count.clone()),
            }
        }
        let given =
            step.resolved.rekeys.and_then(|rekeys| rekeys.partitions).filter(|_| is_needed(step, steps));
        let given = given.zip(placed.get(step.name.as_str()).map(|fields| fields.key_span("partitions")));
        let keeps = step.resolved.rekeys.is_none() && step.resolved.regroup.is_none();
        counts.insert(&step.name, given.or(met.filter(|_| keeps)));
    }
}

/// Whether a path leads from the step to one that finds rows by key, so that a repartition topic follows it.
fn is_needed(from: &StepNode, steps: &[StepNode]) -> bool {
    let mut reached = vec![from.name.as_str()];
    for step in steps {
        if step.inputs.iter().any(|input| reached.contains(&input.node.as_str())) {
            if step.spec.keyed {
                return true;
            }
            reached.push(&step.name);
        }
    }
    false
}
