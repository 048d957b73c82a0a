"""Any folder or archive to pairs of image and mask, with class, patient and fold."""
