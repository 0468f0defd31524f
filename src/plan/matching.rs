//! Assignments: every row gets a place in one column, columns have room for some, the sum of the costs is the least there is.
//!
//! Successive shortest paths: rows are added one by one, each along the cheapest chain of moves that makes room for it
//! (Bellman-Ford over the columns, for moves may pay). After each row the assignment is the cheapest for the rows so far, so no
//! chain comes back to itself for less, and each ends (Ahuja, Magnanti, Orlin, Network Flows, 9.7). Work for n rows and m
//! columns: n times a few times n·m.

/// No way there.
const NEVER: i64 = i64::MAX;

/// A column for each of `rows`; none for a row that has no column at all. Of two equal ways that with the lower columns.
pub(super) fn assign(
    rows: usize,
    capacity: &[usize],
    cost: impl Fn(usize, usize) -> Option<i64>,
) -> Vec<Option<usize>> {
    let columns = capacity.len();
    let costs: Vec<Vec<i64>> =
        (0..rows).map(|row| (0..columns).map(|column| cost(row, column).unwrap_or(NEVER)).collect()).collect();
    let at = |row: usize, column: usize| costs.get(row).and_then(|row| row.get(column)).copied().unwrap_or(NEVER);
    let mut places: Vec<Option<usize>> = vec![None; rows];
    let mut taken = vec![0_usize; columns];
    for row in 0..rows {
        // The cheapest way to get a place in each column, and the row that has to leave another column for it.
        let mut reach: Vec<i64> = (0..columns).map(|column| at(row, column)).collect();
        let mut via: Vec<usize> = vec![row; columns];
        for _ in 0..columns {
            let mut changed = false;
            for (mover, place) in places.iter().enumerate() {
                let Some(from) = *place else { continue };
                let Some(here) = reach.get(from).copied().filter(|here| *here != NEVER) else { continue };
                let left = here.saturating_sub(at(mover, from));
                for (column, (reach, via)) in reach.iter_mut().zip(&mut via).enumerate() {
                    let there = at(mover, column);
                    if column != from && there != NEVER && left.saturating_add(there) < *reach {
                        (*reach, *via, changed) = (left.saturating_add(there), mover, true);
                    }
                }
            }
            if !changed {
                break;
            }
        }
        let free = |(column, cost): &(usize, i64)| *cost != NEVER && taken.get(*column) < capacity.get(*column);
        let Some((end, _)) =
            reach.iter().copied().enumerate().filter(free).min_by_key(|(column, cost)| (*cost, *column))
        else {
            continue;
        };
        if let Some(taken) = taken.get_mut(end) {
            *taken += 1;
        }
        // Back along the chain, as many moves as there are columns at most.
        let mut column = end;
        for _ in 0..=columns {
            let Some(mover) = via.get(column).copied() else { break };
            let Some(place) = places.get_mut(mover) else { break };
            let left = place.replace(column);
            match left {
                Some(left) if mover != row => column = left,
                _ => break,
            }
        }
    }
    places
}

/// Gives `column` one row more, moving rows to columns that they fit too where that makes room; whether it could.
pub(super) fn grow(places: &mut [Option<usize>], column: usize, fits: &impl Fn(usize, usize) -> bool) -> bool {
    let mut seen = vec![false; places.len()];
    augment(places, column, fits, &mut seen)
}

fn augment(
    places: &mut [Option<usize>],
    column: usize,
    fits: &impl Fn(usize, usize) -> bool,
    seen: &mut [bool],
) -> bool {
    for row in 0..places.len() {
        let Some(mark) = seen.get_mut(row).filter(|mark| !**mark) else { continue };
        let holder = places.get(row).copied().flatten();
        if !fits(row, column) || holder == Some(column) {
            continue;
        }
        *mark = true;
        // Whoever has it must find another row: as deep as there are rows.
        if holder.is_none_or(|holder| augment(places, holder, fits, seen)) {
            if let Some(place) = places.get_mut(row) {
                *place = Some(column);
            }
            return true;
        }
    }
    false
}
