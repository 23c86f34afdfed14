//! Places on the earth.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A point on the earth, in millionths of a degree: a tenth of a metre is enough to place machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    latitude: i32,
    longitude: i32,
}

/// Mean radius of the earth, metres (IUGG).
const EARTH_RADIUS_M: f64 = 6_371_008.8;

const MILLION: f64 = 1_000_000.0;

/// A text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position: expected latitude,longitude in degrees, such as 48.26,11.67")]
pub struct InvalidPosition(String);

impl InvalidPosition {
    fn new(text: &str) -> Self {
        Self(text.chars().take(60).collect())
    }
}

impl Position {
    /// A position in degrees; `None` beyond 90 degrees of latitude or 180 of longitude.
    #[must_use]
    pub fn from_degrees(latitude: f64, longitude: f64) -> Option<Self> {
        let within = |degrees: f64, most: f64| degrees.is_finite() && degrees.abs() <= most;
        if !within(latitude, 90.0) || !within(longitude, 180.0) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "checked above: at most 180 million")]
        let millionths = |degrees: f64| (degrees * MILLION).round() as i32;
        Some(Self { latitude: millionths(latitude), longitude: millionths(longitude) })
    }

    /// Great-circle distance in metres.
    #[must_use]
    pub fn distance_m(self, other: Self) -> u32 {
        let radians = |millionths: i32| (f64::from(millionths) / MILLION).to_radians();
        let (first, second) = (radians(self.latitude), radians(other.latitude));
        let across = radians(other.latitude) - radians(self.latitude);
        let along = radians(other.longitude) - radians(self.longitude);
        // Haversine: exact enough for near points, where the law of cosines is not.
        let half = (across / 2.0).sin().powi(2) + first.cos() * second.cos() * (along / 2.0).sin().powi(2);
        let metres = 2.0 * EARTH_RADIUS_M * half.clamp(0.0, 1.0).sqrt().asin();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most half the equator"
        )]
        let whole = metres.round() as u32;
        whole
    }

    /// Reads `latitude,longitude[,radius]`, the form in which clusters say where they are; the radius is in metres.
    ///
    /// # Errors
    /// The text has another form or a number is out of range.
    pub fn parse_area(text: &str) -> Result<(Self, u32), InvalidPosition> {
        let invalid = || InvalidPosition::new(text);
        let numbers: Vec<f64> = text
            .split(',')
            .map(|part| part.trim().parse::<f64>())
            .collect::<Result<_, _>>()
            .map_err(|_| invalid())?;
        let (latitude, longitude, radius) = match numbers.as_slice() {
            [latitude, longitude] => (*latitude, *longitude, 0.0),
            [latitude, longitude, radius] => (*latitude, *longitude, *radius),
            _ => return Err(invalid()),
        };
        if !(0.0..=f64::from(u32::MAX)).contains(&radius) {
            return Err(invalid());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        let radius = radius.round() as u32;
        Ok((Self::from_degrees(latitude, longitude).ok_or_else(invalid)?, radius))
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        Self::parse_area(text).map(|(position, _)| position)
    }
}

impl TryFrom<String> for Position {
    type Error = InvalidPosition;
    fn try_from(text: String) -> Result<Self, InvalidPosition> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", f64::from(self.latitude) / MILLION, f64::from(self.longitude) / MILLION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn distances_are_those_of_the_map() {
        let munich = at("48.137,11.575");
        let near = |found: u32, km: u32| found.abs_diff(km * 1000) < 3_000;
        assert!(near(munich.distance_m(at("52.52,13.405")), 504), "Berlin");
        assert!(near(munich.distance_m(at("-33.87,151.21")), 16_329), "Sydney");
        assert_eq!(munich.distance_m(munich), 0);
        assert!(near(at("0,179.9").distance_m(at("0,-179.9")), 22), "across the date line");
        assert!(near(at("90,0").distance_m(at("-90,0")), 20_015), "from pole to pole");
    }

    #[test]
    fn a_position_reads_back_as_it_is_written() {
        for text in ["48.137,11.575", "-90,180", "0,-0.000001"] {
            assert_eq!(at(text).to_string(), text);
        }
        assert_eq!(Position::parse_area("48.2, 11.6 ,1000"), Ok((at("48.2,11.6"), 1000)));
        for wrong in ["", "1", "91,0", "0,181", "a,b", "1,2,3,4", "1,2,-3", "nan,0"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }
}
