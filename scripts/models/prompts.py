"""What the tasks are in words: one table for goals, videos and captions."""

PROMPTS = {
    "metaworld/pick-place": (
        "a robot arm picks up the red puck and moves it to the goal"
    ),
    "metaworld/drawer-close": "a robot arm pushes the drawer shut",
    "metaworld/handle-press": "a robot arm presses the handle down",
    "metaworld/coffee-button": "a robot arm pushes the button of the coffee machine",
    "metaworld/reach": "a robot arm reaches the goal",
    "metaworld/door-open": "a robot arm pulls the door open by its handle",
    "metaworld/bin-picking": (
        "a robot arm takes the cube from one bin and puts it into the other"
    ),
    "metaworld/pick-out-of-hole": (
        "a robot arm picks the puck out of the hole and moves it to the goal"
    ),
    "metaworld/shelf-place": (
        "a robot arm picks up the block and puts it on the shelf"
    ),
    "metaworld/disassemble": "a robot arm lifts the ring off the peg",
    "metaworld/push": "a robot arm pushes the puck along the table to the goal",
    "metaworld/button-press": "a robot arm pushes the button in the wall",
    "metaworld/button-press-topdown": "a robot arm presses the button down from above",
    "metaworld/window-open": "a robot arm slides the window open",
    "metaworld/drawer-open": "a robot arm pulls the drawer open",
    "metaworld/plate-slide": "a robot arm slides the plate into the net",
    "metaworld/faucet-open": "a robot arm turns the faucet open",
    "dmc/cartpole-swingup": (
        "a cart swings its hanging pole up and keeps it upright in the middle"
    ),
    "dmc/reacher-easy": (
        "an arm of two links moves its tip onto the target and stays there"
    ),
    "dmc/walker-walk": "a planar walker with two legs stands up and walks to the right",
}
