"""The sub-vocabulary: id maps, invariants, fingerprints, must-keep policy, rankings, load and save."""
