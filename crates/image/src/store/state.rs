//! What the store knows in memory. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use super::ImageSummary;
use super::record::{ImageRecord, LayerKey};
use crate::image::Image;
use crate::reference::ImageReference;
use crate::unpack::LayerContents;

/// The time of last use is written down again only after this time: an idle worker shall not wear out its flash.
const WRITE_DOWN_AFTER: Duration = Duration::from_secs(3600);

/// Images and layers on disk, and layers that a running pull relies on.
#[derive(Default)]
pub(super) struct State {
    images: BTreeMap<ImageReference, Entry>,
    layers: HashMap<LayerKey, LayerContents>,
    pinned: HashMap<LayerKey, usize>,
    /// Images that lost their name while somebody held them, with their layers.
    nameless: Vec<(Weak<Image>, Vec<LayerKey>)>,
}

struct Entry {
    image: Arc<Image>,
    layers: Vec<LayerKey>,
    is_local: bool,
    last_used: SystemTime,
    written_down: SystemTime,
}

/// Answer of [`State::note_use`].
pub(super) struct Used {
    pub(super) image: Arc<Image>,
    pub(super) write_down: bool,
}

/// An image garbage collection may remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) reference: ImageReference,
    pub(super) last_used: SystemTime,
}

impl State {
    pub(super) fn find(&self, reference: &ImageReference) -> Option<Arc<Image>> {
        self.images.get(reference).map(|entry| Arc::clone(&entry.image))
    }

    pub(super) fn note_use(&mut self, reference: &ImageReference, now: SystemTime) -> Option<Used> {
        let entry = self.images.get_mut(reference)?;
        entry.last_used = now;
        // A clock that went backwards counts as "long ago".
        let write_down =
            now.duration_since(entry.written_down).map_or(true, |since| since > WRITE_DOWN_AFTER);
        if write_down {
            entry.written_down = now;
        }
        Some(Used { image: Arc::clone(&entry.image), write_down })
    }

    pub(super) fn summaries(&self) -> Vec<ImageSummary> {
        let summary = |(reference, entry): (&ImageReference, &Entry)| ImageSummary {
            reference: reference.clone(),
            digest: entry.image.digest.clone(),
            size_bytes: entry.image.size_bytes,
            last_used: entry.last_used,
            is_local: entry.is_local,
        };
        self.images.iter().map(summary).collect()
    }

    pub(super) fn layer(&self, key: &LayerKey) -> Option<LayerContents> {
        self.layers.get(key).copied()
    }

    pub(super) fn add_layer(&mut self, key: LayerKey, contents: LayerContents) {
        self.layers.insert(key, contents);
    }

    pub(super) fn remove_layer(&mut self, key: &LayerKey) {
        self.layers.remove(key);
    }

    /// Adds an image; `None` when one of its layers is not here.
    pub(super) fn add_image(
        &mut self,
        record: ImageRecord,
        layers_directory: &Path,
        last_used: SystemTime,
    ) -> Option<Arc<Image>> {
        let contents: Vec<LayerContents> =
            record.layers.iter().map(|key| self.layer(key)).collect::<Option<_>>()?;
        // A layer that hides everything below makes the lower ones invisible; see `LayerContents::opaque_root`.
        let lowest = contents.iter().rposition(|layer| layer.opaque_root).unwrap_or(0);
        let visible = record.layers.iter().skip(lowest);
        let image = Arc::new(Image {
            reference: record.reference.clone(),
            digest: record.digest,
            config: record.config,
            layers: visible.map(|key| layers_directory.join(key.as_str())).collect(),
            size_bytes: contents.iter().map(|layer| layer.unpacked_bytes).sum(),
        });
        let entry = Entry {
            image: Arc::clone(&image),
            layers: record.layers,
            is_local: record.is_local,
            last_used,
            written_down: last_used,
        };
        if let Some(replaced) = self.images.insert(record.reference, entry) {
            self.nameless.retain(|(image, _)| image.strong_count() > 0);
            self.nameless.push((Arc::downgrade(&replaced.image), replaced.layers));
        }
        Some(image)
    }

    pub(super) fn remove_image(&mut self, reference: &ImageReference) {
        self.images.remove(reference);
    }

    pub(super) fn layer_bytes(&self) -> u64 {
        self.layers.values().map(|layer| layer.unpacked_bytes).sum()
    }

    /// Keeps `keys` from garbage collection until [`unpin`](Self::unpin), here or not.
    pub(super) fn pin(&mut self, keys: &[LayerKey]) {
        for key in keys {
            *self.pinned.entry(key.clone()).or_default() += 1;
        }
    }

    pub(super) fn unpin(&mut self, keys: &[LayerKey]) {
        for key in keys {
            if let Some(count) = self.pinned.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.pinned.remove(key);
                }
            }
        }
    }

    pub(super) fn is_pinned(&self, key: &LayerKey) -> bool {
        self.pinned.contains_key(key)
    }

    /// Layers that neither an image nor a running pull needs.
    pub(super) fn unneeded_layers(&self) -> Vec<LayerKey> {
        let named = self.images.values().map(|entry| &entry.layers);
        let held =
            self.nameless.iter().filter(|(image, _)| image.strong_count() > 0).map(|(_, layers)| layers);
        let needed: HashSet<&LayerKey> = named.chain(held).flatten().collect();
        let is_unneeded = |key: &&LayerKey| !needed.contains(key) && !self.is_pinned(key);
        self.layers.keys().filter(is_unneeded).cloned().collect()
    }

    /// Images that may go, least recently used first: pulled ones that are neither in `in_use` (by reference or digest)
    /// nor in anyone's hands.
    pub(super) fn candidates(&self, in_use: &HashSet<String>) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = self
            .images
            .iter()
            .filter(|(reference, entry)| {
                !entry.is_local
                    && Arc::strong_count(&entry.image) == 1
                    && !in_use.contains(&reference.to_string())
                    && !in_use.contains(&entry.image.digest.to_string())
            })
            .map(|(reference, entry)| Candidate { reference: reference.clone(), last_used: entry.last_used })
            .collect();
        candidates.sort_by_key(|candidate| candidate.last_used);
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::image::ImageConfig;

    fn key(name: &str) -> LayerKey {
        LayerKey::of_blob(&Digest::of(name.as_bytes()))
    }

    fn record(name: &str, layers: &[&str]) -> ImageRecord {
        ImageRecord {
            schema: 1,
            reference: ImageReference::parse(name).unwrap(),
            digest: Digest::of(name.as_bytes()),
            is_local: false,
            layers: layers.iter().map(|layer| key(layer)).collect(),
            config: ImageConfig::default(),
            manifest: String::new(),
            source_config: String::new(),
        }
    }

    fn state(layers: &[(&str, bool)]) -> State {
        let mut state = State::default();
        for (name, opaque_root) in layers {
            let contents = LayerContents { unpacked_bytes: 10, entries: 1, opaque_root: *opaque_root };
            state.add_layer(key(name), contents);
        }
        state
    }

    #[test]
    fn layers_below_one_that_hides_everything_are_left_out() {
        let mut state = state(&[("a", false), ("b", true), ("c", false)]);
        let image =
            state.add_image(record("x", &["a", "b", "c"]), Path::new("/l"), SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(
            image.layers,
            [Path::new("/l").join(key("b").as_str()), Path::new("/l").join(key("c").as_str())]
        );
        assert!(state.unneeded_layers().is_empty());
    }

    #[test]
    fn what_is_held_used_or_pinned_does_not_go() {
        let mut state = state(&[("a", false), ("b", false)]);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let held = state.add_image(record("held", &["a"]), Path::new("/l"), at(1)).unwrap();
        state.add_image(record("named", &["a"]), Path::new("/l"), at(2)).unwrap();
        state.add_image(record("younger", &["a"]), Path::new("/l"), at(4)).unwrap();
        state.add_image(record("older", &["a"]), Path::new("/l"), at(3)).unwrap();
        let in_use = HashSet::from([Digest::of(b"named").to_string()]);
        let names = |state: &State| -> Vec<String> {
            state.candidates(&in_use).iter().map(|it| it.reference.repository().to_owned()).collect()
        };
        assert_eq!(names(&state), ["library/older", "library/younger"]);
        drop(held);
        assert_eq!(names(&state), ["library/held", "library/older", "library/younger"]);
        assert_eq!(state.unneeded_layers(), [key("b")]);
        state.pin(&[key("b")]);
        assert!(state.unneeded_layers().is_empty());
        state.unpin(&[key("b")]);
        assert_eq!(state.unneeded_layers(), [key("b")]);
    }

    #[test]
    fn an_image_that_lost_its_name_keeps_its_layers_while_held() {
        let mut state = state(&[("old", false), ("new", false)]);
        let old = state.add_image(record("x", &["old"]), Path::new("/l"), SystemTime::UNIX_EPOCH).unwrap();
        state.add_image(record("x", &["new"]), Path::new("/l"), SystemTime::UNIX_EPOCH);
        assert!(state.unneeded_layers().is_empty());
        drop(old);
        assert_eq!(state.unneeded_layers(), [key("old")]);
    }

    #[test]
    fn use_is_written_down_at_most_once_an_hour() {
        let mut state = state(&[("a", false)]);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        state.add_image(record("x", &["a"]), Path::new("/l"), at(10_000));
        let reference = ImageReference::parse("x").unwrap();
        let mut used = |seconds| state.note_use(&reference, at(seconds)).unwrap().write_down;
        assert!(!used(10_010));
        assert!(used(14_000));
        assert!(!used(14_010));
        assert!(used(100), "the clock went backwards");
    }
}
