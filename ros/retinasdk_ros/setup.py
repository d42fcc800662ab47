"""Builds the ROS 2 package retinasdk_ros with colcon."""

from setuptools import setup

NAME = "retinasdk_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/detector.launch.xml"]),
        (f"share/{NAME}/config", ["config/detector.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    description="Detects objects in camera images with RetinaNet models, by retinasdk.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"detector = {NAME}.main:main"]},
)
