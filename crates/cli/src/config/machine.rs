//! Values that tell what a worker machine is: labels, position, devices.

use oak_model::Position;

use super::value::SettingValue;

/// Most labels of a machine: all of them travel with every report about it.
const MOST_LABELS: usize = 64;

/// Most devices of one kind.
const MOST_DEVICES: usize = 256;

/// Labels or addons of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(pub(crate) Vec<String>);

/// Where a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) Position);

/// Device nodes, or the word `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceNodes(pub(crate) Vec<String>);

impl Labels {
    fn check(labels: Vec<String>) -> Result<Self, String> {
        let is_label = |label: &String| {
            (1..=255).contains(&label.len()) && !label.chars().any(|letter| letter.is_control())
        };
        if labels.len() <= MOST_LABELS && labels.iter().all(is_label) {
            return Ok(Self(labels));
        }
        Err(format!("must be at most {MOST_LABELS} labels of 1 to 255 bytes, such as gpu or area=munich"))
    }
}

impl SettingValue for Labels {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::check(Vec::from_text(text)?)
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        Self::check(Vec::from_toml(value)?)
    }
    fn show(&self) -> String {
        self.0.show()
    }
}

impl SettingValue for Place {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| "must be latitude,longitude in degrees, such as 48.26,11.67".to_owned())
    }
    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl DeviceNodes {
    fn check(nodes: Vec<String>) -> Result<Self, String> {
        let is_node = |node: &String| node.starts_with("/dev/") && !node.contains(['\0', ',']);
        if nodes == ["none"] || (nodes.len() <= MOST_DEVICES && nodes.iter().all(is_node)) {
            return Ok(Self(nodes));
        }
        Err(format!("must be at most {MOST_DEVICES} device nodes such as /dev/nvidia0, or none"))
    }
}

impl SettingValue for DeviceNodes {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::check(Vec::from_text(text)?)
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        Self::check(Vec::from_toml(value)?)
    }
    fn show(&self) -> String {
        self.0.show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_nodes_or_none() {
        assert!(DeviceNodes::from_text("/dev/nvidia0,/dev/nvidia1").is_ok());
        assert!(DeviceNodes::from_text("none").is_ok());
        for wrong in ["nvidia0", "none,/dev/nvidia0", "/etc/passwd"] {
            assert!(DeviceNodes::from_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_and_places_read_back_as_they_are_shown() {
        let labels = Labels::from_text("gpu, area=Munich 1").unwrap();
        assert_eq!(Labels::from_text(&labels.show()), Ok(labels));
        let place = Place::from_text("48.26,11.67").unwrap();
        assert_eq!(Place::from_text(&place.show()), Ok(place));
        assert!(Place::from_text("north").is_err());
        assert!(Labels::from_text(&"x".repeat(256)).is_err());
    }
}
