"""The ROS 2 node of retinasdk: images in, detections out."""
