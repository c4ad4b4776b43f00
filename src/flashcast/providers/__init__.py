"""What APNs and FCM want and mean: the shape of a request, the sense of a reply, and credentials."""
