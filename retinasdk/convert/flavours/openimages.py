"""The 264 OpenImages classes of MLPerf's RetinaNet, by class index.

The category ids of its annotation file count from 0 in the order of the list that its scripts give to the converter:
`tools/openimages_mlperf.sh` and `tools/openimages.py` in vision/classification_and_detection of mlcommons/inference at
b66003e1, with the same list in `retired_benchmarks/retinanet/scripts/download_openimages_mlperf.sh` of
mlcommons/training at aa344c7f. `tools/accuracy-openimages.py` takes class indices of the network as category ids.
"""

from __future__ import annotations

_NAMES = """
Airplane, Antelope, Apple, Backpack, Balloon, Banana, Barrel, Baseball bat, Baseball glove, Bee, Beer, Bench, Bicycle,
Bicycle helmet, Bicycle wheel, Billboard, Book, Bookcase, Boot, Bottle, Bowl, Bowling equipment, Box, Boy, Brassiere,
Bread, Broccoli, Bronze sculpture, Bull, Bus, Bust, Butterfly, Cabinetry, Cake, Camel, Camera, Candle, Candy, Cannon,
Canoe, Carrot, Cart, Castle, Cat, Cattle, Cello, Chair, Cheese, Chest of drawers, Chicken, Christmas tree, Coat,
Cocktail, Coffee, Coffee cup, Coffee table, Coin, Common sunflower, Computer keyboard, Computer monitor, Convenience
store, Cookie, Countertop, Cowboy hat, Crab, Crocodile, Cucumber, Cupboard, Curtain, Deer, Desk, Dinosaur, Dog, Doll,
Dolphin, Door, Dragonfly, Drawer, Dress, Drum, Duck, Eagle, Earrings, Egg (Food), Elephant, Falcon, Fedora, Flag,
Flowerpot, Football, Football helmet, Fork, Fountain, French fries, French horn, Frog, Giraffe, Girl, Glasses, Goat,
Goggles, Goldfish, Gondola, Goose, Grape, Grapefruit, Guitar, Hamburger, Handbag, Harbor seal, Headphones, Helicopter,
High heels, Hiking equipment, Horse, House, Houseplant, Human arm, Human beard, Human body, Human ear, Human eye,
Human face, Human foot, Human hair, Human hand, Human head, Human leg, Human mouth, Human nose, Ice cream, Jacket,
Jeans, Jellyfish, Juice, Kitchen & dining room table, Kite, Lamp, Lantern, Laptop, Lavender (Plant), Lemon, Light
bulb, Lighthouse, Lily, Lion, Lipstick, Lizard, Man, Maple, Microphone, Mirror, Mixing bowl, Mobile phone, Monkey,
Motorcycle, Muffin, Mug, Mule, Mushroom, Musical keyboard, Necklace, Nightstand, Office building, Orange, Owl, Oyster,
Paddle, Palm tree, Parachute, Parrot, Pen, Penguin, Personal flotation device, Piano, Picture frame, Pig, Pillow,
Pizza, Plate, Platter, Porch, Poster, Pumpkin, Rabbit, Rifle, Roller skates, Rose, Salad, Sandal, Saucer, Saxophone,
Scarf, Sea lion, Sea turtle, Sheep, Shelf, Shirt, Shorts, Shrimp, Sink, Skateboard, Ski, Skull, Skyscraper, Snake,
Sock, Sofa bed, Sparrow, Spider, Spoon, Sports uniform, Squirrel, Stairs, Stool, Strawberry, Street light, Studio
couch, Suit, Sun hat, Sunglasses, Surfboard, Sushi, Swan, Swimming pool, Swimwear, Tank, Tap, Taxi, Tea, Teddy bear,
Television, Tent, Tie, Tiger, Tin can, Tire, Toilet, Tomato, Tortoise, Tower, Traffic light, Train, Tripod, Truck,
Trumpet, Umbrella, Van, Vase, Vehicle registration plate, Violin, Wall clock, Waste container, Watch, Whale, Wheel,
Wheelchair, Whiteboard, Window, Wine, Wine glass, Woman, Zebra, Zucchini
"""
OPENIMAGES_264 = tuple(name.strip() for name in _NAMES.replace("\n", " ").split(","))
