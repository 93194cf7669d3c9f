"""From an environment and a sentence to a goal bundle, in stages that go on."""
