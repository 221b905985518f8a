//! Places where tests make a process crash.

/// Aborts the process here if the environment says `MILLSTREAM_FAIL_POINT=NAME:COUNT` with this name, when it comes here for
/// the `COUNT`th time. Builds without debug assertions have no such places.
#[inline]
pub fn fail_point(name: &str) {
    #[cfg(debug_assertions)]
    chosen::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod chosen {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    struct Chosen {
        name: String,
        left: AtomicI64,
    }

    static CHOSEN: LazyLock<Option<Chosen>> = LazyLock::new(|| {
        let text = std::env::var("MILLSTREAM_FAIL_POINT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some(Chosen { name: name.to_owned(), left: AtomicI64::new(count.parse().ok()?) })
    });

    pub(super) fn reach(name: &str) {
        if let Some(chosen) = &*CHOSEN
            && chosen.name == name
            && chosen.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            eprintln!("fail point {name}");
            std::process::abort();
        }
    }
}
